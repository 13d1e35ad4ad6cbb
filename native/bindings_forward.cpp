// Bindings of the step's nouns and of the ops between the products. Bindings only: checks live in
// forward_input.cpp, kv_cache.cpp and ops_forward.cpp.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <string>
#include <utility>

#include "bindings.h"
#include "ops.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace cierzo {

namespace {

using Int32Array = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Int32Matrix = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatArray = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Float3D = nb::ndarray<nb::numpy, float, nb::ndim<3>>;

template <class Array>
auto span_of(const Array& a) {
    return std::span(values_of(a), a.size());
}

Float3D owned_array(std::unique_ptr<float[]> data, const KVCache& cache) {
    nb::capsule owner(data.get(), [](void* p) noexcept { delete[] static_cast<float*>(p); });
    const size_t shape[] = {size_t(KVCache::kBlockSize), size_t(cache.n_kv_heads()),
                            size_t(cache.head_dim())};
    return Float3D(data.release(), 3, shape, owner);
}

std::pair<Float3D, Float3D> read_block(const KVCache& cache, int64_t layer, int64_t block) {
    const size_t n = size_t(KVCache::kBlockSize * cache.n_kv_heads() * cache.head_dim());
    auto keys = std::make_unique<float[]>(n), values = std::make_unique<float[]>(n);
    cache.read(layer, block, keys.get(), values.get());
    return {owned_array(std::move(keys), cache), owned_array(std::move(values), cache)};
}

void bind_kv_cache(nb::module_& m) {
    nb::class_<KVCache>(m, "KVCache")
        .def(
            "__init__",
            [](KVCache* self, int64_t n_layers, int64_t num_blocks, int64_t n_kv_heads,
               int64_t head_dim, const std::string& dtype) {
                new (self)
                    KVCache(n_layers, num_blocks, n_kv_heads, head_dim, kv_type_named(dtype));
            },
            "n_layers"_a, "num_blocks"_a, "n_kv_heads"_a, "head_dim"_a, "dtype"_a = "bf16")
        .def_prop_ro("n_layers", &KVCache::n_layers)
        .def_prop_ro("num_blocks", &KVCache::num_blocks)
        .def_prop_ro("n_kv_heads", &KVCache::n_kv_heads)
        .def_prop_ro("head_dim", &KVCache::head_dim)
        .def_prop_ro("dtype",
                     [](const KVCache& cache) { return std::string(kv_type_name(cache.type())); })
        .def_prop_ro("nbytes", &KVCache::nbytes)
        .def("copy_block", &KVCache::copy_block, "source"_a, "target"_a,
             nb::call_guard<nb::gil_scoped_release>())
        .def(
            "read",
            [](const KVCache& cache, int64_t layer, int64_t block) {
                auto [keys, values] = read_block(cache, layer, block);
                return nb::make_tuple(std::move(keys), std::move(values));
            },
            "layer"_a, "block"_a);
}

void bind_forward_input(nb::module_& m) {
    nb::class_<ForwardInput>(m, "ForwardInput")
        .def(
            "__init__",
            [](ForwardInput* self, const Int32Array& token_ids, const Int32Array& positions,
               const Int32Array& slot_mapping, const Int32Array& query_starts,
               const Int32Array& context_lens, const Int32Matrix& block_tables,
               const FloatMatrix& cos, const FloatMatrix& sin, const FloatArray& query_scale,
               int64_t num_prompt_tokens) {
                new (self) ForwardInput(ForwardArrays{
                    span_of(token_ids), span_of(positions), span_of(slot_mapping),
                    span_of(query_starts), span_of(context_lens), span_of(block_tables),
                    int64_t(block_tables.shape(1)), span_of(cos), span_of(sin),
                    int64_t(cos.shape(1)), span_of(query_scale), num_prompt_tokens});
            },
            "token_ids"_a.noconvert(), "positions"_a.noconvert(), "slot_mapping"_a.noconvert(),
            "query_starts"_a.noconvert(), "context_lens"_a.noconvert(),
            "block_tables"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert(),
            "query_scale"_a.noconvert(), "num_prompt_tokens"_a = 0)
        .def_prop_ro("num_tokens", &ForwardInput::num_tokens)
        .def_prop_ro("num_sequences", &ForwardInput::num_sequences)
        .def_ro("num_prompt_tokens", &ForwardInput::num_prompt_tokens);
}

}  // namespace

void bind_forward(nb::module_& m) {
    using Release = nb::call_guard<nb::gil_scoped_release>;
    bind_kv_cache(m);
    bind_forward_input(m);
    m.def("embed", &embed, "out"_a, "inp"_a, "weight"_a, Release());
    m.def("rms_norm", &rms_norm, "out"_a, "x"_a, "weight"_a, "eps"_a, Release());
    m.def("rope_and_store", &rope_and_store, "q_out"_a, "qkv"_a, "inp"_a, "kv_cache"_a, "layer"_a,
          "n_heads"_a, "interleaved"_a = false, Release());
    m.def("attention", &attention, "out"_a, "q"_a, "inp"_a, "kv_cache"_a, "layer"_a,
          "sliding_window"_a = 0, Release());
    m.def("attention_layer", &attention_layer, "x"_a, "qkv_proj"_a, "o_proj"_a, "norm"_a, "inp"_a,
          "kv_cache"_a, "layer"_a, "n_heads"_a, "sliding_window"_a = 0, Release());
}

}  // namespace cierzo
