// Measures this machine: how fast its threads read, and how fast they multiply.
#pragma once

#include <cstdint>
#include <string>

namespace cierzo {

// Bytes per second of all threads of the pool reading a buffer of `nbytes` again and again, in huge
// pages where the system gives them: the median pass of `seconds`. Throws std::invalid_argument,
// std::bad_alloc.
double read_rate(int64_t nbytes, double seconds);

// Operations per second (two per multiply-add) of all threads on one unit of the instruction set in
// use; 0 where it has no such unit. `unit`: "f32", "int8" (vectors), "amx_int8", "amx_bf16" (tiles
// in registers), "amx_int8_l1", "amx_bf16_l1" (operands from the first-level cache). Throws
// std::invalid_argument.
double multiply_rate(const std::string& unit, double seconds);

}  // namespace cierzo
