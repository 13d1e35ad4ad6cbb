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

// Throws unless dtype is "int4", "int8" or "bf16" (which cannot be affine).
WeightFormat weight_format(const std::string& dtype, bool affine);
const char* dtype_name(WeightFormat format);
bool is_affine_format(WeightFormat format);

// ops_matmul.cpp
// Throws unless `data_nbytes` is what the shape takes.
PackedWeight packed_weight(const uint8_t* data, int64_t data_nbytes, const std::string& dtype,
                           bool affine, int64_t n_out, int64_t n_in, int64_t n_experts);
void matmul(Tensor& out, const Tensor& x, const PackedWeight& weight, bool accumulate);
void matmul_swiglu(Tensor& out, const Tensor& x, const PackedWeight& gate_up);
void moe(Tensor& x, const Tensor& h, const Tensor& router, const PackedWeight& gate_up,
         const PackedWeight& down, int64_t num_experts_per_tok, Tensor* expert_counts);
void gather_rows(Tensor& out, const Tensor& x, const int32_t* rows, int64_t num_rows);

}  // namespace cierzo
