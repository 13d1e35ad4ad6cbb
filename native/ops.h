// The ops as Python calls them: each checks its arguments, resizes its outputs and calls the kernel
// of the instruction set in use. Throws std::invalid_argument (ValueError) naming op, argument,
// expected and actual.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

#include "forward_input.h"
#include "kv_cache.h"
#include "tensor.h"

namespace cierzo {

// Throws unless `ok`: "<op>: <argument> must be <expected>; got <actual>".
inline void check(bool ok, const char* op, const char* argument, const std::string& expected,
                  const std::string& actual) {
    if (!ok)
        throw std::invalid_argument(std::string(op) + ": " + argument + " must be " + expected +
                                    "; got " + actual);
}

// Throws unless dtype is "int4", "int8" or "bf16" (which cannot be affine).
WeightFormat weight_format(const std::string& dtype, bool affine);
const char* dtype_name(WeightFormat format);
bool is_affine_format(WeightFormat format);

// RMSNorm of the rows that an op reads, as a value: what rms_norm() would write elsewhere.
struct RMSNorm {
    Tensor weight;  // [1, dim]
    float eps;
};

// ops_forward.cpp
void embed(Tensor& out, const ForwardInput& input, const PackedWeight& weight);
void rms_norm(Tensor& out, const Tensor& x, const Tensor& weight, float eps);
void rope_and_store(Tensor& q_out, const Tensor& qkv, const ForwardInput& input, KVCache& kv_cache,
                    int64_t layer, int64_t n_heads, bool interleaved);
void attention(Tensor& out, const Tensor& q, const ForwardInput& input, const KVCache& kv_cache,
               int64_t layer, int64_t sliding_window);

// x += output(attention(qkv(norm(x)))): matmul, rope_and_store, attention and matmul.
void attention_layer(Tensor& x, const PackedWeight& qkv_proj, const PackedWeight& o_proj,
                     const RMSNorm& norm, const ForwardInput& input, KVCache& kv_cache,
                     int64_t layer, int64_t n_heads, int64_t sliding_window);

// ops_sampling.cpp; ids, values and the parameters of sample() are as in kernels.h
void argmax(int32_t* ids, const Tensor& logits);
void logsumexp(float* out, const Tensor& logits);
void top_k(int32_t* ids, float* values, const Tensor& logits, int64_t row, int64_t k);
struct SamplingRows {
    std::span<const float> temperature;
    std::span<const int32_t> top_k;
    std::span<const float> top_p;
    std::span<const double> uniform;
};
void sample(int32_t* ids, const Tensor& logits, const SamplingRows& rows);
void apply_mask(Tensor& logits, int64_t row, std::span<const uint32_t> mask);

// ops_matmul.cpp
// Throws unless `data_nbytes` is what the shape takes.
PackedWeight packed_weight(const uint8_t* data, int64_t data_nbytes, const std::string& dtype,
                           bool affine, int64_t n_out, int64_t n_in, int64_t n_experts);
// Throws unless the weight is one row, and eps finite and not negative.
RMSNorm make_norm(const Tensor& weight, float eps);
void matmul(Tensor& out, const Tensor& x, const PackedWeight& weight, bool accumulate,
            int64_t num_prompt_rows, const RMSNorm* norm);
void matmul_swiglu(Tensor& out, const Tensor& x, const PackedWeight& gate_up,
                   int64_t num_prompt_rows);
void feed_forward(Tensor& x, const PackedWeight& gate_up, const PackedWeight& down,
                  int64_t num_prompt_rows, const RMSNorm* norm);
void moe(Tensor& x, const Tensor& h, const Tensor& router, const PackedWeight& gate_up,
         const PackedWeight& down, int64_t num_experts_per_tok, Tensor* expert_counts,
         int64_t num_prompt_rows);
void gather_rows(Tensor& out, const Tensor& x, const int32_t* rows, int64_t num_rows);

}  // namespace cierzo
