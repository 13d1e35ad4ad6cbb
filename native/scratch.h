// Working memory of the kernels: per thread, 64-byte aligned, grows and is kept.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cierzo {

// What a buffer is for. Two buffers in use at the same time need two slots.
enum class ScratchSlot {
    kActivations,       // rows prepared for a product
    kLocalActivations,  // the same, where each thread prepares its own copy
    kNormed,            // one thread's rows between their norm and their preparation
    kDequantized,       // one thread's weights as bf16
    kAccumulators,      // one thread's sums before the epilogue
    kHidden,            // a sparse layer's rows between its two products
    kExpertOut,         // a sparse layer's rows before they are added up
    kRouting,           // a sparse layer's choice and order
    kProjected,         // a step's queries, keys and values, and what attention makes of them
    kAttention,         // one thread's scores or partial results
    kSampling,
    kCount
};

// At least `nbytes` for the calling thread, with undefined contents, valid until this thread asks
// for the same slot again. Throws std::bad_alloc: ask outside parallel regions for anything large.
void* scratch(ScratchSlot slot, size_t nbytes);

template <class T>
T* scratch_array(ScratchSlot slot, int64_t count) {
    return static_cast<T*>(scratch(slot, size_t(count) * sizeof(T)));
}

}  // namespace cierzo
