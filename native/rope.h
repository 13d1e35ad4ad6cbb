// RoPE and the KV cache's newest entries, for kernels that have a region of their own.
#pragma once

#include "kernels.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

// Token t's kv heads [begin, end) and the query heads that attend to them.
void rope_and_store_heads(const RopeArgs& a, int64_t t, int64_t begin, int64_t end);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
