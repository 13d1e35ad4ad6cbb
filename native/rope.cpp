// Rotary embedding of queries and keys, and the way of keys and values into the paged cache.
//
// One head's rotation is x0·cos − x1·sin and x1·cos + x0·sin over its pairs (each product and sum
// rounded), a query's result times its query_scale.
#include "rope.h"

#include "forward_input.h"
#include "kernel_functions.h"
#include "kv_rows.h"
#include "thread_pool.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr int64_t kWorthSharing = 16384;  // values; less is done sooner than shared

int lanes_left(int64_t i, int64_t n) {
    return n - i < kLanes ? int(n - i) : kLanes;
}

struct Angles {
    const float* cos;
    const float* sin;
    int64_t pairs;
};

// Sixteen pairs, or as many as are left, from pair i on.
struct Pairs {
    f32x16 first, second;
    void rotate(const Angles& angles, int64_t i, int lanes, float scale) {
        const f32x16 c = f32x16::load_partial(angles.cos + i, lanes);
        const f32x16 s = f32x16::load_partial(angles.sin + i, lanes);
        const f32x16 factor = f32x16::broadcast(scale);
        const f32x16 rotated = (first * c - second * s) * factor;
        second = (second * c + first * s) * factor;
        first = rotated;
    }
};

// A head's two halves, rotated; out may be x.
void rotate_halves(float* out, const float* x, const Angles& angles, float scale) {
    const int64_t n = angles.pairs;
    for (int64_t i = 0; i < n; i += kLanes) {
        const int lanes = lanes_left(i, n);
        Pairs pairs = {f32x16::load_partial(x + i, lanes), f32x16::load_partial(x + n + i, lanes)};
        pairs.rotate(angles, i, lanes, scale);
        pairs.first.store_partial(out + i, lanes);
        pairs.second.store_partial(out + n + i, lanes);
    }
}

// The same where a pair's values are neighbours.
void rotate_neighbours(float* out, const float* x, const Angles& angles, float scale) {
    for (int64_t i = 0; i < angles.pairs; i += kLanes) {
        const int lanes = lanes_left(i, angles.pairs);
        float first[kLanes], second[kLanes];
        for (int j = 0; j < lanes; ++j) {
            first[j] = x[2 * (i + j)];
            second[j] = x[2 * (i + j) + 1];
        }
        Pairs pairs = {f32x16::load_partial(first, lanes), f32x16::load_partial(second, lanes)};
        pairs.rotate(angles, i, lanes, scale);
        pairs.first.store(first);
        pairs.second.store(second);
        for (int j = 0; j < lanes; ++j) {
            out[2 * (i + j)] = first[j];
            out[2 * (i + j) + 1] = second[j];
        }
    }
}

void rotate_head(float* out, const float* x, const Angles& angles, float scale, bool interleaved) {
    interleaved ? rotate_neighbours(out, x, angles, scale) : rotate_halves(out, x, angles, scale);
}

}  // namespace

void rope_and_store_heads(const RopeArgs& a, int64_t t, int64_t begin, int64_t end) {
    const ForwardInput& input = *a.input;
    KVCache& cache = *a.kv_cache;
    const int64_t head_dim = cache.head_dim(), n_kv_heads = cache.n_kv_heads();
    const int64_t group = a.n_heads / n_kv_heads;
    const Angles angles = {input.cos.data() + t * input.rope_pairs,
                           input.sin.data() + t * input.rope_pairs, input.rope_pairs};
    const float* q = a.qkv + t * (a.n_heads + 2 * n_kv_heads) * head_dim;
    float* q_out = a.q_out + t * a.n_heads * head_dim;
    for (int64_t h = begin * group; h < end * group; ++h)
        rotate_head(q_out + h * head_dim, q + h * head_dim, angles, input.query_scale[size_t(t)],
                    a.interleaved);

    const float* k = q + a.n_heads * head_dim;
    const float* v = k + n_kv_heads * head_dim;
    const int64_t block = input.slot_mapping[size_t(t)] / kBlockSize;
    const int64_t offset = input.slot_mapping[size_t(t)] % kBlockSize;
    with_rows(cache.type(), [&]<class Rows>(Rows) {
        for (int64_t h = begin; h < end; ++h) {
            alignas(64) float rotated[kMaxHeadDim];
            rotate_head(rotated, k + h * head_dim, angles, 1.0f, a.interleaved);
            Rows::store_key(cache.keys(a.layer, block, h), rotated, head_dim, offset);
            Rows::store_value(cache.values(a.layer, block, h), v + h * head_dim, head_dim, offset);
        }
    });
}

void rope_and_store(const RopeArgs& args) {
    const int64_t num_tokens = args.input->num_tokens();
    auto work = [&](const Team& team) {
        const auto [begin, end] = team.share(num_tokens);
        for (int64_t t = begin; t < end; ++t)
            rope_and_store_heads(args, t, 0, args.kv_cache->n_kv_heads());
    };
    const int64_t width =
        (args.n_heads + 2 * args.kv_cache->n_kv_heads()) * args.kv_cache->head_dim();
    if (num_tokens * width < kWorthSharing)
        ThreadPool::instance().run_alone(work);
    else
        ThreadPool::instance().run(work);
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
