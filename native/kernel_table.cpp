// Gathers one instruction set's kernels into its table. Compiled once per instruction set.
#include "kernel_functions.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

extern const Kernels kernel_table;

const Kernels kernel_table = {
    .quantize = quantize,
    .matmul = matmul,
    .matmul_swiglu = matmul_swiglu,
    .feed_forward = feed_forward,
    .moe = moe,
    .gather_rows = gather_rows,
    .embed = embed,
    .rms_norm = rms_norm,
    .rope_and_store = rope_and_store,
    .attention = attention,
    .attention_layer = attention_layer,
    .argmax = argmax,
    .logsumexp = logsumexp,
    .top_k = top_k,
    .sample = sample,
    .apply_mask = apply_mask,
    .read_burst = read_burst,
    .multiply_burst = multiply_burst,
};

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
