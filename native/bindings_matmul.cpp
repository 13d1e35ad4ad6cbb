// Bindings of the matmul family. Bindings only: checks live in ops_matmul.cpp.
#include <nanobind/ndarray.h>

#include "bindings.h"
#include "ops.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace cierzo {

namespace {

using Int32Array = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

}  // namespace

void bind_matmul(nb::module_& m) {
    m.def(
        "gather_rows",
        [](Tensor& out, const Tensor& x, const Int32Array& rows) {
            nb::gil_scoped_release release;
            gather_rows(out, x, rows.data(), int64_t(rows.shape(0)));
        },
        "out"_a, "x"_a, "rows"_a);
}

}  // namespace cierzo
