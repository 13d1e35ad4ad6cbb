// Entry point of cierzo.kernels._native: Tensor and the machine. Bindings only.
#include "bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "dispatch.h"
#include "ops_roofline.h"
#include "tensor.h"
#include "thread_pool.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace cierzo {

namespace {

using FloatArray = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatView = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

Tensor tensor_from_numpy(const FloatArray& a) {
    Tensor t(int64_t(a.shape(0)), int64_t(a.shape(1)));
    std::memcpy(t.data(), a.data(), a.nbytes());
    return t;
}

FloatView tensor_view(const Tensor& t) {
    auto* keep = new std::shared_ptr<float>(t.buffer());
    nb::capsule owner(keep,
                      [](void* p) noexcept { delete static_cast<std::shared_ptr<float>*>(p); });
    return FloatView(t.buffer().get(), {size_t(t.rows()), size_t(t.cols())}, owner);
}

void bind_tensor(nb::module_& m) {
    nb::class_<Tensor>(m, "Tensor")
        .def(nb::init<int64_t, int64_t>(), "rows"_a, "cols"_a)
        .def_prop_ro("rows", &Tensor::rows)
        .def_prop_ro("cols", &Tensor::cols)
        .def("resize", &Tensor::resize, "rows"_a)
        .def("numpy", &tensor_view)
        .def_static("from_numpy", &tensor_from_numpy, "a"_a)
        .def("__repr__", [](const Tensor& t) { return "Tensor" + t.shape(); });
}

void bind_machine(nb::module_& m) {
    m.def(
        "set_num_threads", [](int n) { ThreadPool::instance().set_num_threads(n); }, "n"_a,
        nb::call_guard<nb::gil_scoped_release>());
    m.def("num_threads", [] { return ThreadPool::instance().num_threads(); });
    m.def("isa", &isa);
    m.def("available_isas", &available_isas);
    m.def("set_isa", &set_isa, "name"_a);
    using release = nb::call_guard<nb::gil_scoped_release>;
    m.def("read_rate", &read_rate, "nbytes"_a, "seconds"_a, release());
    m.def("multiply_rate", &multiply_rate, "unit"_a, "seconds"_a, release());
}

}  // namespace

}  // namespace cierzo

NB_MODULE(_native, m) {
    // A model that is kept until the interpreter ends is nobody's mistake.
    nb::set_leak_warnings(false);
    cierzo::bind_tensor(m);
    cierzo::bind_machine(m);
    cierzo::bind_matmul(m);
    cierzo::bind_forward(m);
    cierzo::bind_sampling(m);
    cierzo::bind_program(m);
}
