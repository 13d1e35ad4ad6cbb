// RMSNorm of one row, for the kernels that normalise what they read.
#pragma once

#include "kernels.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

// out[dim] = x / sqrt(mean(x²) + eps) · weight; out may be x.
void norm_row(float* out, const float* x, int64_t dim, const Norm& norm);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
