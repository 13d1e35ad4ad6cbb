#include "tensor.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

namespace cierzo {

namespace {

// 2^40 floats: far above any machine, far below where byte counts overflow.
constexpr int64_t kMaxFloats = int64_t(1) << 40;

int64_t checked_count(int64_t rows, int64_t cols) {
    if (rows < 0 || cols < 1 || rows > kMaxFloats / cols)
        throw std::invalid_argument(
            "Tensor: rows must be >= 0 and cols >= 1, with at most 2^40 values; got [" +
            std::to_string(rows) + ", " + std::to_string(cols) + "]");
    return rows * cols;
}

}  // namespace

std::shared_ptr<float> allocate_floats(int64_t count) {
    const size_t nbytes = size_t(round_up(count * int64_t(sizeof(float)), int64_t(kAlignment)));
    void* p = std::aligned_alloc(kAlignment, nbytes == 0 ? kAlignment : nbytes);
    if (p == nullptr) throw std::bad_alloc();
    std::memset(p, 0, nbytes);
    return {static_cast<float*>(p), [](float* q) { std::free(q); }};
}

Tensor::Tensor(int64_t rows, int64_t cols)
    : rows_(rows),
      cols_(cols),
      capacity_(checked_count(rows, cols)),
      buffer_(allocate_floats(capacity_)) {}

std::string Tensor::shape() const {
    return "[" + std::to_string(rows_) + ", " + std::to_string(cols_) + "]";
}

void Tensor::resize(int64_t rows) {
    const int64_t count = checked_count(rows, cols_);
    if (count > capacity_) {
        buffer_ = allocate_floats(count);
        capacity_ = count;
    }
    rows_ = rows;
}

}  // namespace cierzo
