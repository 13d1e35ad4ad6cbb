// Bindings of programs: each method notes the op of the same name, whose prompt rows are the
// step's. A program keeps the operands it names alive. Bindings only.
#include <nanobind/ndarray.h>

#include "bindings.h"
#include "ops.h"
#include "program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace cierzo {

namespace {

using Step = const ProgramStep&;
using Rows = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <size_t kArgument>  // the program itself is number 1
using holds = nb::keep_alive<1, kArgument>;

void bind_products(nb::class_<Program>& program) {
    program.def(
        "feed_forward",
        [](Program& p, Tensor& x, const PackedWeight& gate_up, const PackedWeight& down,
           const RMSNorm* norm) {
            p.add([&x, &gate_up, &down, norm](Step s) {
                feed_forward(x, gate_up, down, s.input.num_prompt_tokens, norm);
            });
        },
        "x"_a, "gate_up"_a, "down"_a, "norm"_a = nb::none(), holds<2>(), holds<3>(), holds<4>(),
        holds<5>());
    program.def(
        "moe",
        [](Program& p, Tensor& x, const Tensor& h, const Tensor& router,
           const PackedWeight& gate_up, const PackedWeight& down, int64_t num_experts_per_tok,
           Tensor* expert_counts) {
            p.add([&x, &h, &router, &gate_up, &down, num_experts_per_tok, expert_counts](Step s) {
                moe(x, h, router, gate_up, down, num_experts_per_tok, expert_counts,
                    s.input.num_prompt_tokens);
            });
        },
        "x"_a, "h"_a, "router"_a, "gate_up"_a, "down"_a, "num_experts_per_tok"_a,
        "expert_counts"_a = nb::none(), holds<2>(), holds<3>(), holds<4>(), holds<5>(), holds<6>(),
        holds<8>());
}

void bind_between_products(nb::class_<Program>& program) {
    program.def(
        "embed",
        [](Program& p, Tensor& out, const PackedWeight& weight) {
            p.add([&out, &weight](Step s) { embed(out, s.input, weight); });
        },
        "out"_a, "weight"_a, holds<2>(), holds<3>());
    program.def(
        "rms_norm",
        [](Program& p, Tensor& out, const Tensor& x, const Tensor& weight, float eps) {
            p.add([&out, &x, &weight, eps](Step) { rms_norm(out, x, weight, eps); });
        },
        "out"_a, "x"_a, "weight"_a, "eps"_a, holds<2>(), holds<3>(), holds<4>());
    program.def(
        "attention_layer",
        [](Program& p, Tensor& x, const PackedWeight& qkv_proj, const PackedWeight& o_proj,
           const RMSNorm& norm, int64_t layer, int64_t n_heads, int64_t sliding_window) {
            p.add([&x, &qkv_proj, &o_proj, &norm, layer, n_heads, sliding_window](Step s) {
                attention_layer(x, qkv_proj, o_proj, norm, s.input, s.kv_cache, layer, n_heads,
                                sliding_window);
            });
        },
        "x"_a, "qkv_proj"_a, "o_proj"_a, "norm"_a, "layer"_a, "n_heads"_a, "sliding_window"_a = 0,
        holds<2>(), holds<3>(), holds<4>(), holds<5>());
    program.def(
        "gather_rows",
        [](Program& p, Tensor& out, const Tensor& x) {
            p.add(
                [&out, &x](Step s) { gather_rows(out, x, s.rows.data(), int64_t(s.rows.size())); });
        },
        "out"_a, "x"_a, holds<2>(), holds<3>());
}

}  // namespace

void bind_program(nb::module_& m) {
    nb::class_<Program> program(m, "Program");
    program.def(nb::init<>());
    program.def(
        "run",
        [](const Program& p, const ForwardInput& input, KVCache& kv_cache, const Rows& rows) {
            const std::span<const int32_t> ids(values_of(rows), rows.size());
            nb::gil_scoped_release unlocked;
            p.run({input, kv_cache, ids});
        },
        "inp"_a, "kv_cache"_a, "rows"_a.noconvert());
    bind_between_products(program);
    bind_products(program);
}

}  // namespace cierzo
