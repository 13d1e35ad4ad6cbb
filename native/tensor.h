// Float rows in aligned memory, and the view of a packed weight: the nouns the kernels work on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace cierzo {

inline constexpr size_t kAlignment = 64;  // bytes: one cache line, one zmm
inline constexpr int64_t kGroup = 32;     // inputs that share a scale; the depth of a tile
inline constexpr int64_t kPanel = 16;     // outputs side by side in a tile

inline constexpr int64_t round_up(int64_t n, int64_t unit) {
    return (n + unit - 1) / unit * unit;
}

// float32 [rows, cols], row-major, 64-byte aligned. The buffer grows and never shrinks. It is
// shared so that a NumPy view taken before a resize stays valid memory (with stale contents), never
// a dangling one.
class Tensor {
  public:
    // Zero-filled. Throws std::invalid_argument on a negative or absurd size, std::bad_alloc if
    // full.
    Tensor(int64_t rows, int64_t cols);

    int64_t rows() const { return rows_; }
    int64_t cols() const { return cols_; }
    float* data() { return buffer_.get(); }
    const float* data() const { return buffer_.get(); }
    float* row(int64_t i) { return buffer_.get() + i * cols_; }
    const float* row(int64_t i) const { return buffer_.get() + i * cols_; }
    const std::shared_ptr<float>& buffer() const { return buffer_; }
    std::string shape() const;

    // Contents are undefined after growing.
    void resize(int64_t rows);

  private:
    int64_t rows_;
    int64_t cols_;
    int64_t capacity_;  // floats
    std::shared_ptr<float> buffer_;
};

// Zero-filled, 64-byte aligned, never null.
std::shared_ptr<float> allocate_floats(int64_t count);

enum class WeightFormat { kInt4, kInt4Affine, kInt8, kInt8Affine, kBf16 };

// Bytes of one tile of 16 outputs x 32 inputs.
constexpr int64_t tile_nbytes(WeightFormat format) {
    switch (format) {
        case WeightFormat::kInt4:
            return 288;
        case WeightFormat::kInt4Affine:
            return 320;
        case WeightFormat::kInt8:
            return 544;
        case WeightFormat::kInt8Affine:
            return 576;
        case WeightFormat::kBf16:
            return 1024;
    }
    return 0;
}

// A matrix [n_out, n_in], or a stack of experts, in tile order (docs/architecture.md). Does not own
// the bytes: whoever made it keeps them alive.
struct PackedWeight {
    const uint8_t* data;
    WeightFormat format;
    int64_t n_out;
    int64_t n_in;
    int64_t n_experts;

    int64_t num_panels() const { return (n_out + kPanel - 1) / kPanel; }
    int64_t num_groups() const { return (n_in + kGroup - 1) / kGroup; }
    int64_t panel_nbytes() const { return num_groups() * tile_nbytes(format); }
    int64_t expert_nbytes() const { return num_panels() * panel_nbytes(); }
    int64_t nbytes() const { return n_experts * expert_nbytes(); }
    const uint8_t* panel(int64_t expert, int64_t index) const {
        return data + expert * expert_nbytes() + index * panel_nbytes();
    }
};

}  // namespace cierzo
