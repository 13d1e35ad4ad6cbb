// Matrices into tile order and back (docs/architecture.md, "Packed weights"). Set-up work: plain
// loops.
#pragma once

#include <cstdint>

#include "tensor.h"

namespace cierzo {

// Bytes of one packed matrix.
int64_t packed_nbytes(WeightFormat format, int64_t n_out, int64_t n_in);

// values [n_out, n_in] unsigned; scales and minimums (null unless affine) f16 [n_out, groups].
void pack_quantized(uint8_t* out, WeightFormat format, const uint8_t* values,
                    const uint16_t* scales, const uint16_t* minimums, int64_t n_out, int64_t n_in);
void pack_bf16(uint8_t* out, const float* weights, int64_t n_out, int64_t n_in);
// weights [n_out, n_in]: exactly the numbers that the packed matrix stands for.
void unpack(float* weights, const uint8_t* data, WeightFormat format, int64_t n_out, int64_t n_in);

}  // namespace cierzo
