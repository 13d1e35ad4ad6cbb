#include <cmath>

#include "dispatch.h"
#include "ops.h"

namespace cierzo {

namespace {

// What every op on a cache needs to hold: the step's slots, blocks and angles fit it.
void check_cache(const char* op, const ForwardInput& input, const KVCache& kv_cache,
                 int64_t layer) {
    const std::string blocks = std::to_string(kv_cache.num_blocks());
    check(layer >= 0 && layer < kv_cache.n_layers(), op, "layer",
          "in [0, " + std::to_string(kv_cache.n_layers()) + ")", std::to_string(layer));
    check(input.max_slot < kv_cache.num_blocks() * KVCache::kBlockSize, op, "slot_mapping",
          "slots of " + blocks + " blocks", std::to_string(input.max_slot));
    check(input.max_block_id < kv_cache.num_blocks(), op, "block_tables", "ids below " + blocks,
          std::to_string(input.max_block_id));
}

void check_rows(const char* op, const char* argument, const Tensor& x, const ForwardInput& input) {
    check(x.rows() == input.num_tokens(), op, argument,
          "of " + std::to_string(input.num_tokens()) + " rows", x.shape());
}

// Every block that the window still reaches must be held.
void check_held(const ForwardInput& input, int64_t sliding_window) {
    for (int64_t s = 0; s < input.num_sequences(); ++s) {
        const int64_t queries = input.num_queries(s);
        if (queries == 0) continue;
        const int64_t first_end = input.context_lens[size_t(s)] - queries + 1;
        const int64_t first =
            sliding_window > 0 && first_end > sliding_window ? first_end - sliding_window : 0;
        check(input.first_held[size_t(s)] / KVCache::kBlockSize <= first / KVCache::kBlockSize,
              "attention", "block_tables",
              "block ids from position " + std::to_string(first) + " of sequence " +
                  std::to_string(s) + " on",
              "a freed block before position " + std::to_string(input.first_held[size_t(s)]));
    }
}

// Far above any model, low enough that no product of sizes overflows.
constexpr int64_t kMaxHeads = int64_t(1) << 31;

}  // namespace

void embed(Tensor& out, const ForwardInput& input, const PackedWeight& weight) {
    check(out.cols() == weight.n_in, "embed", "out",
          std::to_string(weight.n_in) + " wide, as the weight", out.shape());
    check(input.max_token_id < weight.n_out, "embed", "token_ids",
          "below " + std::to_string(weight.n_out), std::to_string(input.max_token_id));
    out.resize(input.num_tokens());
    kernels().embed(out.data(), input.token_ids.data(), input.num_tokens(), weight);
}

void rms_norm(Tensor& out, const Tensor& x, const Tensor& weight, float eps) {
    check(weight.rows() == 1 && weight.cols() == x.cols(), "rms_norm", "weight",
          "[1, " + std::to_string(x.cols()) + "]", weight.shape());
    check(out.cols() == x.cols(), "rms_norm", "out", "as wide as x " + x.shape(), out.shape());
    check(&out != &weight, "rms_norm", "out", "another tensor than weight", "the same");
    check(eps >= 0.0f && std::isfinite(eps), "rms_norm", "eps", "finite and >= 0",
          std::to_string(eps));
    out.resize(x.rows());
    kernels().rms_norm(out.data(), x.data(), weight.data(), x.rows(), x.cols(), eps);
}

void rope_and_store(Tensor& q_out, const Tensor& qkv, const ForwardInput& input, KVCache& kv_cache,
                    int64_t layer, int64_t n_heads, bool interleaved) {
    constexpr const char* op = "rope_and_store";
    const int64_t head_dim = kv_cache.head_dim(), n_kv_heads = kv_cache.n_kv_heads();
    check_cache(op, input, kv_cache, layer);
    check_rows(op, "qkv", qkv, input);
    check(n_heads > 0 && n_heads % n_kv_heads == 0, op, "n_heads",
          "a multiple of " + std::to_string(n_kv_heads) + " kv heads", std::to_string(n_heads));
    check(qkv.cols() % head_dim == 0 && qkv.cols() / head_dim == n_heads + 2 * n_kv_heads, op,
          "qkv",
          std::to_string(n_heads) + " + 2 x " + std::to_string(n_kv_heads) + " heads of " +
              std::to_string(head_dim) + " wide",
          qkv.shape());
    check(q_out.cols() == n_heads * head_dim, op, "q_out",
          std::to_string(n_heads * head_dim) + " wide", q_out.shape());
    check(2 * input.rope_pairs == head_dim, op, "cos", std::to_string(head_dim / 2) + " wide",
          std::to_string(input.rope_pairs));
    check(&q_out != &qkv, op, "q_out", "another tensor than qkv", "the same");
    q_out.resize(input.num_tokens());
    kernels().rope_and_store(
        {q_out.data(), qkv.data(), &input, &kv_cache, layer, n_heads, interleaved});
}

void attention(Tensor& out, const Tensor& q, const ForwardInput& input, const KVCache& kv_cache,
               int64_t layer, int64_t sliding_window) {
    constexpr const char* op = "attention";
    check_cache(op, input, kv_cache, layer);
    check_rows(op, "q", q, input);
    const int64_t group_width = kv_cache.n_kv_heads() * kv_cache.head_dim();
    check(q.cols() % group_width == 0, op, "q",
          "a multiple of " + std::to_string(kv_cache.n_kv_heads()) + " kv heads x " +
              std::to_string(kv_cache.head_dim()) + " wide",
          q.shape());
    check(out.cols() == q.cols(), op, "out", "as wide as q " + q.shape(), out.shape());
    check(&out != &q, op, "out", "another tensor than q", "the same");
    check(sliding_window >= 0, op, "sliding_window", ">= 0 (0 = all)",
          std::to_string(sliding_window));
    check_held(input, sliding_window);
    out.resize(input.num_tokens());
    kernels().attention({out.data(), q.data(), &input, &kv_cache, layer,
                         q.cols() / kv_cache.head_dim(), sliding_window});
}

void attention_layer(Tensor& x, const PackedWeight& qkv_proj, const PackedWeight& o_proj,
                     const RMSNorm& norm, const ForwardInput& input, KVCache& kv_cache,
                     int64_t layer, int64_t n_heads, int64_t sliding_window) {
    constexpr const char* op = "attention_layer";
    const int64_t head_dim = kv_cache.head_dim(), n_kv_heads = kv_cache.n_kv_heads();
    const auto check_weight = [&](const char* name, const PackedWeight& weight, int64_t n_out,
                                  int64_t n_in) {
        check(weight.n_experts == 1 && weight.n_out == n_out && weight.n_in == n_in, op, name,
              "[" + std::to_string(n_out) + ", " + std::to_string(n_in) + "]",
              "[" + std::to_string(weight.n_out) + ", " + std::to_string(weight.n_in) + "] x " +
                  std::to_string(weight.n_experts));
    };
    check_cache(op, input, kv_cache, layer);
    check_rows(op, "x", x, input);
    check(n_heads > 0 && n_heads <= kMaxHeads && n_heads % n_kv_heads == 0, op, "n_heads",
          "a multiple of " + std::to_string(n_kv_heads) + " kv heads", std::to_string(n_heads));
    check_weight("qkv_proj", qkv_proj, (n_heads + 2 * n_kv_heads) * head_dim, x.cols());
    check_weight("o_proj", o_proj, x.cols(), n_heads * head_dim);
    check(norm.weight.cols() == x.cols(), op, "norm", "as wide as x " + x.shape(),
          norm.weight.shape());
    check(2 * input.rope_pairs == head_dim, op, "cos", std::to_string(head_dim / 2) + " wide",
          std::to_string(input.rope_pairs));
    check(sliding_window >= 0, op, "sliding_window", ">= 0 (0 = all)",
          std::to_string(sliding_window));
    check_held(input, sliding_window);
    kernels().attention_layer({x.data(),
                               &qkv_proj,
                               &o_proj,
                               {norm.weight.data(), norm.eps},
                               &input,
                               &kv_cache,
                               layer,
                               n_heads,
                               sliding_window});
}

}  // namespace cierzo
