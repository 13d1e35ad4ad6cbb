// Bindings of the sampling reductions. Bindings only: checks live in ops_sampling.cpp.
#include <nanobind/ndarray.h>

#include <memory>
#include <utility>

#include "bindings.h"
#include "ops.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace cierzo {

namespace {

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

template <class T>
std::span<const T> span_of(const In<T>& a) {
    return {values_of(a), a.size()};
}

template <class T>
Out<T> to_python(std::unique_ptr<T[]> data, size_t n) {
    nb::capsule owner(data.get(), [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return Out<T>(data.release(), {n}, owner);
}

// A new array with a value per row of logits, written by fill(pointer) without the GIL.
template <class T, class Fill>
Out<T> per_row(const Tensor& logits, Fill fill) {
    const size_t n = size_t(logits.rows());
    auto data = std::make_unique<T[]>(n);
    {
        nb::gil_scoped_release release;
        fill(data.get());
    }
    return to_python(std::move(data), n);
}

nb::tuple top_k_arrays(const Tensor& logits, int64_t row, int64_t k) {
    // An absurd k is refused by top_k() before it writes; here it must not be allocated.
    const size_t n = k >= 0 && k <= logits.cols() ? size_t(k) : 0;
    auto ids = std::make_unique<int32_t[]>(n);
    auto values = std::make_unique<float[]>(n);
    {
        nb::gil_scoped_release release;
        top_k(ids.get(), values.get(), logits, row, k);
    }
    return nb::make_tuple(to_python(std::move(ids), n), to_python(std::move(values), n));
}

}  // namespace

void bind_sampling(nb::module_& m) {
    m.def(
        "argmax",
        [](const Tensor& logits) {
            return per_row<int32_t>(logits, [&](int32_t* out) { argmax(out, logits); });
        },
        "logits"_a);
    m.def(
        "logsumexp",
        [](const Tensor& logits) {
            return per_row<float>(logits, [&](float* out) { logsumexp(out, logits); });
        },
        "logits"_a);
    m.def("top_k", &top_k_arrays, "logits"_a, "row"_a, "k"_a);
    m.def(
        "sample",
        [](const Tensor& logits, const In<float>& temperature, const In<int32_t>& k,
           const In<float>& top_p, const In<double>& uniform) {
            const SamplingRows rows = {span_of(temperature), span_of(k), span_of(top_p),
                                       span_of(uniform)};
            return per_row<int32_t>(logits, [&](int32_t* out) { sample(out, logits, rows); });
        },
        "logits"_a, "temperature"_a.noconvert(), "top_k"_a.noconvert(), "top_p"_a.noconvert(),
        "uniform"_a.noconvert());
    m.def(
        "apply_mask",
        [](Tensor& logits, int64_t row, const In<uint32_t>& mask) {
            const std::span<const uint32_t> words = span_of(mask);
            nb::gil_scoped_release release;
            apply_mask(logits, row, words);
        },
        "logits"_a, "row"_a, "mask"_a.noconvert());
}

}  // namespace cierzo
