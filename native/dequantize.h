// Tiles of quantised weights as tiles of bf16 weights, for the rows of prompt tokens.
#pragma once

#include <cstdint>

#include "tensor.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

// `count` tiles of an int4 or int8 format, one after another: each weight (exact in float32, or
// rounded to it once where there is a minimum) rounded to the nearest bf16, halves away from zero:
// an addition, where half to even would take three.
void dequantize_tiles(uint8_t* out, WeightFormat format, const uint8_t* tiles, int64_t count);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
