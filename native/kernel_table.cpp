// Gathers one instruction set's kernels into its table. Compiled once per instruction set.
#include "kernel_functions.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

extern const Kernels kernel_table;

const Kernels kernel_table = {
    .quantize = quantize,
    .matmul = matmul,
    .matmul_swiglu = matmul_swiglu,
    .moe = moe,
    .gather_rows = gather_rows,
};

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
