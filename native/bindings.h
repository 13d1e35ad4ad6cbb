// One function per bindings_*.cpp, called by the module's entry point in bindings.cpp.
#pragma once

#include <nanobind/nanobind.h>

namespace cierzo {

void bind_forward(nanobind::module_& m);
void bind_sampling(nanobind::module_& m);
void bind_matmul(nanobind::module_& m);

}  // namespace cierzo
