#include "scratch.h"

#include "tensor.h"

namespace cierzo {

namespace {

struct Buffer {
    std::shared_ptr<float> memory;
    size_t nbytes = 0;
};

}  // namespace

void* scratch(ScratchSlot slot, size_t nbytes) {
    thread_local Buffer buffers[size_t(ScratchSlot::kCount)];
    Buffer& buffer = buffers[size_t(slot)];
    if (buffer.nbytes < nbytes || !buffer.memory) {
        buffer.memory.reset();
        buffer.memory = allocate_floats(int64_t(nbytes / sizeof(float)) + 1);
        buffer.nbytes = nbytes;
    }
    return buffer.memory.get();
}

}  // namespace cierzo
