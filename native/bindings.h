// One function per bindings_*.cpp, called by the module's entry point in bindings.cpp; and what
// they share.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <stdexcept>
#include <type_traits>

namespace cierzo {

void bind_forward(nanobind::module_& m);
void bind_sampling(nanobind::module_& m);
void bind_program(nanobind::module_& m);
void bind_matmul(nanobind::module_& m);

// The values of an array argument. NumPy has arrays that begin between two addresses of their type;
// reading those is undefined, so they are refused.
template <class Array>
auto* values_of(const Array& a) {
    using Value = std::remove_pointer_t<decltype(a.data())>;
    if (a.size() != 0 && reinterpret_cast<uintptr_t>(a.data()) % alignof(Value) != 0)
        throw std::invalid_argument(
            "an array argument must begin at a multiple of its item size; got an unaligned view: "
            "pass its copy()");
    return a.data();
}

}  // namespace cierzo
