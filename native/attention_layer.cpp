// A layer's attention with the products around it. A step of one completion row is a chain of ops
// too short to share one by one (some 2 us of RoPE, 5 of attention): it runs in one region, and who
// waits for the others' heads asks for the next product's weights meanwhile.
#include "attention.h"
#include "dense_product.h"
#include "rope.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// What lies between the two products, in the caller's scratch.
struct Projected {
    float* qkv;       // [T, (n_heads + 2 n_kv_heads) * head_dim]
    float* q;         // [T, n_heads * head_dim], rotated
    float* attended;  // the same

    explicit Projected(const AttentionLayerArgs& a) {
        const int64_t rows = a.input->num_tokens();
        const int64_t num_qkv = rows * a.qkv_proj->n_out, width = rows * a.o_proj->n_in;
        qkv = scratch_array<float>(ScratchSlot::kProjected, num_qkv + 2 * width);
        q = qkv + num_qkv;
        attended = q + width;
    }
};

RopeArgs rope_args(const AttentionLayerArgs& a, const Projected& p) {
    return {p.q, p.qkv, a.input, a.kv_cache, a.layer, a.n_heads, false};
}

AttentionArgs attention_args(const AttentionLayerArgs& a, const Projected& p) {
    return {p.attended, p.q, a.input, a.kv_cache, a.layer, a.n_heads, a.sliding_window};
}

// out (+)= the row (normalised where `norm` has a weight) times the weight.
void multiply_row(const Team& team, int sequence, float* out, const float* row,
                  const PackedWeight& weight, const Norm& norm, bool accumulate) {
    Product(row, 1, 0, weight, 1, norm).multiply(team, sequence, nullptr, [&](const Sums& sums) {
        store_sums(out, weight.n_out, sums, accumulate);
    });
}

void run_row(const AttentionLayerArgs& a, const Projected& projected) {
    static thread_local AttentionPlan plan;  // kept: a step allocates nothing
    AttentionPlan& shared = plan;
    const RopeArgs rope = rope_args(a, projected);
    const AttentionArgs args = attention_args(a, projected);
    const AttentionProblem problem(args);
    ThreadPool& pool = ThreadPool::instance();
    make_plan(shared, problem, pool.num_threads());
    pool.run([&](const Team& team) {
        multiply_row(team, 3, projected.qkv, a.x, *a.qkv_proj, a.norm, false);
        team.barrier();
        const auto [begin, end] = team.share(a.kv_cache->n_kv_heads());
        rope_and_store_heads(rope, 0, begin, end);
        team.barrier();
        attend(problem, shared, team);
        FewRowsAhead ahead(team, *a.o_proj);
        team.barrier([&] { return ahead.next(); });
        multiply_row(team, 5, a.x, projected.attended, *a.o_proj, {}, true);
    });
}

}  // namespace

void attention_layer(const AttentionLayerArgs& a) {
    const int64_t rows = a.input->num_tokens(), num_prompt_rows = a.input->num_prompt_tokens;
    if (rows == 0) return;
    const Projected p(a);
    if (rows == 1 && num_prompt_rows == 0) return run_row(a, p);
    matmul({p.qkv, a.x, rows, a.qkv_proj, false, num_prompt_rows, a.norm});
    rope_and_store(rope_args(a, p));
    attention(attention_args(a, p));
    matmul({a.x, p.attended, rows, a.o_proj, true, num_prompt_rows, {}});
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
