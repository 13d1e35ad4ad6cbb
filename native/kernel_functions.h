// Declarations of the functions that one instruction set's kernel sources define (see kernels.h for
// what they do), for kernel_table.cpp.
#pragma once

#include "kernels.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

void quantize(const QuantizeArgs& a);
void matmul(const MatmulArgs& a);
void matmul_swiglu(const MatmulSwigluArgs& a);
void moe(const MoeArgs& a);
void gather_rows(float* out, const float* x, int64_t cols, const int32_t* rows, int64_t num_rows);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
