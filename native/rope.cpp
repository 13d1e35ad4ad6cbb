// Rotary embedding of queries and keys, and the way of keys and values into the paged cache.
//
// One head's rotation is x0·cos − x1·sin and x1·cos + x0·sin over its pairs (each product and sum
// rounded), a query's result times its query_scale. Keys and values are rounded to bf16.
#include <cstring>

#include "forward_input.h"
#include "kernel_functions.h"
#include "kv_cache.h"
#include "simd.h"
#include "thread_pool.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr int64_t kMaxHeadDim = KVCache::kMaxHeadDim;
constexpr int64_t kWorthSharing = 16384;  // values; less is done sooner than shared

// The first and the second value of every pair, apart; room for whole vectors.
struct Pairs {
    alignas(64) float first[kMaxHeadDim / 2];
    alignas(64) float second[kMaxHeadDim / 2];
};

int lanes_left(int64_t i, int64_t n) {
    return n - i < kLanes ? int(n - i) : kLanes;
}

// Rotates one head's n pairs by its angles and multiplies by scale.
void rotate(Pairs& out, const float* first, const float* second, const float* cos, const float* sin,
            int64_t n, float scale) {
    const f32x16 factor = f32x16::broadcast(scale);
    for (int64_t i = 0; i < n; i += kLanes) {
        const int lanes = lanes_left(i, n);
        const f32x16 x0 = f32x16::load_partial(first + i, lanes);
        const f32x16 x1 = f32x16::load_partial(second + i, lanes);
        const f32x16 c = f32x16::load_partial(cos + i, lanes);
        const f32x16 s = f32x16::load_partial(sin + i, lanes);
        ((x0 * c - x1 * s) * factor).store(out.first + i);
        ((x1 * c + x0 * s) * factor).store(out.second + i);
    }
}

struct Angles {
    const float* cos;
    const float* sin;
    int64_t pairs;
};

// out may be x.
void rotate_head(float* out, const float* x, const Angles& angles, float scale, bool interleaved) {
    const int64_t n = angles.pairs;
    Pairs rotated;
    if (!interleaved) {
        rotate(rotated, x, x + n, angles.cos, angles.sin, n, scale);
        std::memcpy(out, rotated.first, size_t(n) * sizeof(float));
        std::memcpy(out + n, rotated.second, size_t(n) * sizeof(float));
        return;
    }
    Pairs apart;
    for (int64_t i = 0; i < n; ++i) {
        apart.first[i] = x[2 * i];
        apart.second[i] = x[2 * i + 1];
    }
    rotate(rotated, apart.first, apart.second, angles.cos, angles.sin, n, scale);
    for (int64_t i = 0; i < n; ++i) {
        out[2 * i] = rotated.first[i];
        out[2 * i + 1] = rotated.second[i];
    }
}

void round_to_bf16(uint16_t* out, const float* x, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes)
        store_bf16(out + i, f32x16::load_partial(x + i, lanes_left(i, n)));
}

void store_key(uint16_t* keys, const float* k, int64_t head_dim, int64_t offset) {
    uint16_t rounded[kMaxHeadDim];
    round_to_bf16(rounded, k, head_dim);
    for (int64_t pair = 0; pair < head_dim / 2; ++pair)
        std::memcpy(keys + (pair * KVCache::kBlockSize + offset) * 2, rounded + 2 * pair, 4);
}

void store_value(uint16_t* values, const float* v, int64_t head_dim, int64_t offset) {
    uint16_t rounded[kMaxHeadDim];
    round_to_bf16(rounded, v, head_dim);
    std::memcpy(values + offset * head_dim, rounded, size_t(head_dim) * sizeof(uint16_t));
}

void do_token(const RopeArgs& a, int64_t t) {
    const ForwardInput& input = *a.input;
    KVCache& cache = *a.kv_cache;
    const int64_t head_dim = cache.head_dim(), n_kv_heads = cache.n_kv_heads();
    const Angles angles = {input.cos.data() + t * input.rope_pairs,
                           input.sin.data() + t * input.rope_pairs, input.rope_pairs};
    const float* q = a.qkv + t * (a.n_heads + 2 * n_kv_heads) * head_dim;
    float* q_out = a.q_out + t * a.n_heads * head_dim;
    for (int64_t h = 0; h < a.n_heads; ++h)
        rotate_head(q_out + h * head_dim, q + h * head_dim, angles, input.query_scale[size_t(t)],
                    a.interleaved);

    const float* k = q + a.n_heads * head_dim;
    const float* v = k + n_kv_heads * head_dim;
    const int64_t block = input.slot_mapping[size_t(t)] / KVCache::kBlockSize;
    const int64_t offset = input.slot_mapping[size_t(t)] % KVCache::kBlockSize;
    for (int64_t h = 0; h < n_kv_heads; ++h) {
        float rotated[kMaxHeadDim];
        rotate_head(rotated, k + h * head_dim, angles, 1.0f, a.interleaved);
        store_key(cache.keys(a.layer, block, h), rotated, head_dim, offset);
        store_value(cache.values(a.layer, block, h), v + h * head_dim, head_dim, offset);
    }
}

}  // namespace

void rope_and_store(const RopeArgs& args) {
    const int64_t num_tokens = args.input->num_tokens();
    auto work = [&](const Team& team) {
        const auto [begin, end] = team.share(num_tokens);
        for (int64_t t = begin; t < end; ++t) do_token(args, t);
    };
    const int64_t width =
        (args.n_heads + 2 * args.kv_cache->n_kv_heads()) * args.kv_cache->head_dim();
    if (num_tokens * width < kWorthSharing)
        ThreadPool::instance().run_alone(work);
    else
        ThreadPool::instance().run(work);
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
