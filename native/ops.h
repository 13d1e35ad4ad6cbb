// The ops as Python calls them: each checks its arguments, resizes its outputs and calls the kernel
// of the instruction set in use. Throws std::invalid_argument (ValueError) naming op, argument,
// expected and actual.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "tensor.h"

namespace cierzo {

// Throws unless `ok`: "<op>: <argument> must be <expected>; got <actual>".
inline void check(bool ok, const char* op, const char* argument, const std::string& expected,
                  const std::string& actual) {
    if (!ok)
        throw std::invalid_argument(std::string(op) + ": " + argument + " must be " + expected +
                                    "; got " + actual);
}

// ops_matmul.cpp
void gather_rows(Tensor& out, const Tensor& x, const int32_t* rows, int64_t num_rows);

}  // namespace cierzo
