// The whole kernel surface: one table of functions per instruction set, filled by kernel_table.cpp.
//
// Rules for every entry. Shapes were checked by the op that calls it (ops_*.cpp), so kernels
// neither check nor throw. Rows are dense (row stride = cols). Outputs are resized already and may
// not overlap inputs unless said. Kernels open their own parallel region on ThreadPool::instance().
// A row's result may depend on that row alone (docs/architecture.md, "One numeric contract").
#pragma once

#include <cstdint>

#include "tensor.h"

namespace cierzo {

struct ForwardInput;  // forward_input.h
class KVCache;        // kv_cache.h

// In the products the first `num_prompt_rows` rows are prompt tokens, which int4 and int8 weights
// meet as bf16; the others meet them as integers.

// RMSNorm of the rows that an op reads; none without a weight.
struct Norm {
    const float* weight = nullptr;
    float eps = 0.0f;
};

// out[rows, n_out] (+)= x[rows, n_in] · Wᵀ, expert 0 of `weight`.
struct MatmulArgs {
    float* out;
    const float* x;
    int64_t rows;
    const PackedWeight* weight;
    bool accumulate;  // add to `out` instead of replacing it
    int64_t num_prompt_rows;
    Norm norm;  // of the rows of x
};

// out[rows, hidden] = silu(x · gateᵀ) ⊙ (x · upᵀ). `gate_up` has 2 × hidden_padded outputs, 16 of
// gate then 16 of up and so on; hidden_padded is hidden rounded up to 16.
struct MatmulSwigluArgs {
    float* out;
    const float* x;
    int64_t rows;
    int64_t hidden;
    const PackedWeight* gate_up;
    int64_t num_prompt_rows;
};

// x[rows, dim] += down(silu(gate(h)) ⊙ up(h)), h = norm(x).
struct FeedForwardArgs {
    float* x;
    int64_t rows;
    int64_t dim;
    const PackedWeight* gate_up;  // as in MatmulSwigluArgs
    const PackedWeight* down;
    int64_t num_prompt_rows;
    Norm norm;
};

// x[rows, dim] += Σ over the chosen experts e of weight_e · FF_e(h[rows, dim]).
struct MoeArgs {
    float* x;
    const float* h;
    int64_t rows;
    int64_t dim;
    int64_t hidden;
    const float* router;  // [num_experts, dim]
    const PackedWeight* gate_up;
    const PackedWeight* down;
    int64_t num_experts_per_tok;
    float* expert_counts;  // [num_experts], added to; or null
    int64_t num_prompt_rows;
};

// q_out[T, n_heads * head_dim] = rope(q) · query_scale; k (rotated) and v go to the cache.
struct RopeArgs {
    float* q_out;
    const float* qkv;  // [T, (n_heads + 2 n_kv_heads) * head_dim]: q, k, v side by side
    const ForwardInput* input;
    KVCache* kv_cache;
    int64_t layer;
    int64_t n_heads;
    bool interleaved;  // pairs (2i, 2i+1) instead of (i, i + head_dim/2)
};

// out[T, n_heads * head_dim], q the same shape.
struct AttentionArgs {
    float* out;
    const float* q;
    const ForwardInput* input;
    const KVCache* kv_cache;
    int64_t layer;
    int64_t n_heads;
    int64_t sliding_window;  // tokens attended back, the current one included; 0 = all
};

// x[T, dim] += output(attention(qkv(norm(x)))).
struct AttentionLayerArgs {
    float* x;
    const PackedWeight* qkv_proj;
    const PackedWeight* o_proj;
    Norm norm;
    const ForwardInput* input;
    KVCache* kv_cache;
    int64_t layer;
    int64_t n_heads;
    int64_t sliding_window;
};

struct SampleArgs {
    int32_t* ids;         // [rows], the result
    const float* logits;  // [rows, vocab_size]
    int64_t rows;
    int64_t vocab_size;
    const float* temperature;  // [rows]; 0 = argmax
    const int32_t* top_k;      // [rows]; 0 = off
    const float* top_p;        // [rows]; 1 = off
    const double* uniform;     // [rows], in [0, 1)
};

// weights [n_out, n_in] to values [n_out, n_in] and f16 scales, minimums [n_out, groups]. bits 4:
// affine; bits 8: symmetric, minimums null.
struct QuantizeArgs {
    const float* weights;
    int64_t n_out;
    int64_t n_in;
    int bits;
    uint8_t* values;
    uint16_t* scales;
    uint16_t* minimums;
};

// What a burst of products runs on (roofline.cpp): vectors, or tiles with their operands in
// registers or, four loads for every four products, from the first-level cache.
enum class MultiplyUnit {
    kF32,
    kInt8,
    kTileInt8,
    kTileBf16,
    kTileInt8FromL1,
    kTileBf16FromL1,
};
inline constexpr int64_t kRooflineScratch = 32 << 10;  // bytes of a thread's scratch: a part of L1

struct Kernels {
    void (*quantize)(const QuantizeArgs&) = nullptr;

    void (*matmul)(const MatmulArgs&) = nullptr;
    void (*matmul_swiglu)(const MatmulSwigluArgs&) = nullptr;
    void (*feed_forward)(const FeedForwardArgs&) = nullptr;
    void (*moe)(const MoeArgs&) = nullptr;
    // out[r] = x[rows[r]] for r < num_rows.
    void (*gather_rows)(float* out, const float* x, int64_t cols, const int32_t* rows,
                        int64_t num_rows) = nullptr;

    // out[t] = row token_ids[t] of the (dequantised) weight; ids are in range.
    void (*embed)(float* out, const int32_t* token_ids, int64_t num_tokens,
                  const PackedWeight& weight) = nullptr;
    // out may be x.
    void (*rms_norm)(float* out, const float* x, const float* weight, int64_t rows, int64_t dim,
                     float eps) = nullptr;
    void (*rope_and_store)(const RopeArgs&) = nullptr;
    void (*attention)(const AttentionArgs&) = nullptr;
    void (*attention_layer)(const AttentionLayerArgs&) = nullptr;

    void (*argmax)(int32_t* ids, const float* logits, int64_t rows, int64_t vocab_size) = nullptr;
    void (*logsumexp)(float* out, const float* logits, int64_t rows, int64_t vocab_size) = nullptr;
    // Of one row of logits; descending, ties by lowest id.
    void (*top_k)(int32_t* ids, float* values, const float* logits, int64_t vocab_size,
                  int64_t k) = nullptr;
    void (*sample)(const SampleArgs&) = nullptr;
    // Sets logits[i] to -inf where bit i of mask is 0.
    void (*apply_mask)(float* logits, const uint32_t* mask, int64_t vocab_size) = nullptr;

    // One thread's burst of work, to be timed. Reads all of [p, p + nbytes), a multiple of 2^16;
    // returns a sum so that nothing is left out.
    uint64_t (*read_burst)(const uint8_t* p, int64_t nbytes) = nullptr;
    // Returns the multiply-adds done, 0 where this instruction set has no such unit.
    int64_t (*multiply_burst)(MultiplyUnit unit, int64_t steps, uint8_t* scratch) = nullptr;
};

}  // namespace cierzo
