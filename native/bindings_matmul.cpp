// Bindings of packed weights and the matmul family. Bindings only: checks live in ops_*.cpp.
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <new>
#include <optional>
#include <tuple>

#include "bindings.h"
#include "ops.h"
#include "ops_packing.h"

namespace nb = nanobind;
using namespace nb::literals;

// f16 arrays travel as their bits.
template <>
struct nanobind::detail::dtype_traits<cierzo::Half> {
    static constexpr dlpack::dtype value{uint8_t(dlpack::dtype_code::Float), 16, 1};
    static constexpr auto name = const_name("float16");
};

namespace cierzo {

namespace {

template <class T, int kDims>
using Input = nb::ndarray<const T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
template <class T, int kDims>
using Output = nb::ndarray<nb::numpy, T, nb::ndim<kDims>>;

// An array of its own memory, uninitialised.
template <class T, int kDims>
Output<T, kDims> new_array(std::initializer_list<size_t> shape) {
    size_t count = 1;
    for (const size_t n : shape) count *= n;
    T* data = new T[count];
    return Output<T, kDims>(
        data, shape, nb::capsule(data, [](void* p) noexcept { delete[] static_cast<T*>(p); }));
}

Matrix<const Half> matrix(const Input<Half, 2>& a) {
    return {values_of(a), int64_t(a.shape(0)), int64_t(a.shape(1))};
}

Output<uint8_t, 1> pack_quantized_array(const Input<uint8_t, 2>& values,
                                        const Input<Half, 2>& scales,
                                        const std::optional<Input<Half, 2>>& minimums, int bits) {
    const int64_t n_out = int64_t(values.shape(0)), n_in = int64_t(values.shape(1));
    const Matrix<const Half> no_minimums{nullptr, 0, 0};
    const PackRequest request{{values.data(), n_out, n_in},
                              matrix(scales),
                              minimums ? matrix(*minimums) : no_minimums,
                              bits};
    auto out = new_array<uint8_t, 1>({size_t(checked_packed_nbytes(request))});
    nb::gil_scoped_release release;
    pack_quantized(out.data(), request);
    return out;
}

Output<uint8_t, 1> pack_bf16_array(const Input<float, 2>& w) {
    const Matrix<const float> weights{values_of(w), int64_t(w.shape(0)), int64_t(w.shape(1))};
    auto out = new_array<uint8_t, 1>(
        {size_t(checked_packed_nbytes("bf16", false, weights.rows, weights.cols))});
    nb::gil_scoped_release release;
    pack_bf16(out.data(), weights);
    return out;
}

using Quantized = std::tuple<Output<uint8_t, 2>, Output<Half, 2>, std::optional<Output<Half, 2>>>;

Quantized quantize_array(const Input<float, 2>& w, int bits) {
    const float* weights = values_of(w);
    const size_t n_out = w.shape(0), groups = (w.shape(1) + 31) / 32;
    auto values = new_array<uint8_t, 2>({n_out, w.shape(1)});
    auto scales = new_array<Half, 2>({n_out, groups});
    std::optional<Output<Half, 2>> minimums;
    if (bits == 4) minimums = new_array<Half, 2>({n_out, groups});
    {
        nb::gil_scoped_release release;
        quantize({weights, int64_t(n_out), int64_t(w.shape(1))}, bits, values.data(), scales.data(),
                 minimums ? minimums->data() : nullptr);
    }
    return {values, scales, minimums};
}

Output<float, 2> unpack_array(const Input<uint8_t, 1>& data, const std::string& dtype, bool affine,
                              int64_t n_out, int64_t n_in) {
    const PackedWeight w =
        packed_weight(data.data(), int64_t(data.size()), dtype, affine, n_out, n_in, 1);
    auto out = new_array<float, 2>({size_t(n_out), size_t(n_in)});
    nb::gil_scoped_release release;
    unpack(out.data(), w);
    return out;
}

void bind_packing(nb::module_& m) {
    nb::class_<PackedWeight>(m, "PackedWeight")
        .def(
            "__init__",
            [](PackedWeight* self, const Input<uint8_t, 1>& data, const std::string& dtype,
               bool affine, int64_t n_out, int64_t n_in, int64_t n_experts) {
                new (self) PackedWeight(packed_weight(data.data(), int64_t(data.size()), dtype,
                                                      affine, n_out, n_in, n_experts));
            },
            "data"_a.noconvert(), "dtype"_a, "affine"_a, "n_out"_a, "n_in"_a, "n_experts"_a = 1,
            nb::keep_alive<1, 2>())
        .def_prop_ro("dtype", [](const PackedWeight& w) { return dtype_name(w.format); })
        .def_prop_ro("affine", [](const PackedWeight& w) { return is_affine_format(w.format); })
        .def_ro("n_out", &PackedWeight::n_out)
        .def_ro("n_in", &PackedWeight::n_in)
        .def_ro("n_experts", &PackedWeight::n_experts)
        .def_prop_ro("nbytes", &PackedWeight::nbytes);
    m.def("pack_quantized", &pack_quantized_array, "values"_a.noconvert(), "scales"_a.noconvert(),
          "minimums"_a.none(), "bits"_a);
    m.def("pack_bf16", &pack_bf16_array, "w"_a);
    m.def("quantize", &quantize_array, "w"_a, "bits"_a);
    m.def("unpack", &unpack_array, "data"_a.noconvert(), "dtype"_a, "affine"_a, "n_out"_a,
          "n_in"_a);
    m.def("packed_nbytes",
          nb::overload_cast<const std::string&, bool, int64_t, int64_t>(&checked_packed_nbytes),
          "dtype"_a, "affine"_a, "n_out"_a, "n_in"_a);
}

}  // namespace

void bind_matmul(nb::module_& m) {
    bind_packing(m);
    using release = nb::call_guard<nb::gil_scoped_release>;
    nb::class_<RMSNorm>(m, "RMSNorm")
        .def(
            "__init__",
            [](RMSNorm* self, const Tensor& weight, float eps) {
                new (self) RMSNorm(make_norm(weight, eps));
            },
            "weight"_a, "eps"_a);
    m.def("matmul", &matmul, "out"_a, "x"_a, "weight"_a, "accumulate"_a = false,
          "num_prompt_rows"_a = 0, "norm"_a = nb::none(), release());
    m.def("matmul_swiglu", &matmul_swiglu, "out"_a, "x"_a, "gate_up"_a, "num_prompt_rows"_a = 0,
          release());
    m.def("feed_forward", &feed_forward, "x"_a, "gate_up"_a, "down"_a, "num_prompt_rows"_a = 0,
          "norm"_a = nb::none(), release());
    m.def("moe", &moe, "x"_a, "h"_a, "router"_a, "gate_up"_a, "down"_a, "num_experts_per_tok"_a,
          "expert_counts"_a = nb::none(), "num_prompt_rows"_a = 0, release());
    m.def(
        "gather_rows",
        [](Tensor& out, const Tensor& x, const Input<int32_t, 1>& rows) {
            const int32_t* ids = values_of(rows);
            nb::gil_scoped_release unlocked;
            gather_rows(out, x, ids, int64_t(rows.shape(0)));
        },
        "out"_a, "x"_a, "rows"_a.noconvert());
}

}  // namespace cierzo
