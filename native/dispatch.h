// Which instruction sets this build and this machine have, and the kernel table in use.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace cierzo {

// The table in use: the best available unless set_isa() chose a lower one.
const Kernels& kernels();

std::string isa();                          // "portable", "avx2", "avx512" or "amx"
std::vector<std::string> available_isas();  // worst first
// Throws std::invalid_argument naming the available ones. Not while ops run in other threads.
void set_isa(const std::string& name);

}  // namespace cierzo
