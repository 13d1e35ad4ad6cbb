// Keys and values of every layer, in blocks of 16 tokens. Knows where a block lies, not who owns
// it: block ids are handed out by the engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace cierzo {

// How a number is stored (kv_rows.h reads and writes rows). A plane, one head's keys or values of a
// block, is
//   bf16  keys [head_dim / 2][16 tokens][2], values [8 pairs of tokens][head_dim][2]
//   int8  keys [head_dim][16 tokens], values [16 tokens][head_dim], both as integers, and behind
//         them the tokens' 16 scales in bf16
enum class KVType { kBf16, kInt8 };

const char* kv_type_name(KVType type);
// Throws std::invalid_argument.
KVType kv_type_named(const std::string& name);

class KVCache {
  public:
    static constexpr int64_t kBlockSize = 16;    // tokens
    static constexpr int64_t kMaxHeadDim = 256;  // what the kernels keep scratch for

    // Zero-filled; the operating system provides the memory when a block is first written. Throws
    // std::invalid_argument on sizes out of range, std::bad_alloc.
    KVCache(int64_t n_layers, int64_t num_blocks, int64_t n_kv_heads, int64_t head_dim,
            KVType type = KVType::kBf16);

    int64_t n_layers() const { return n_layers_; }
    int64_t num_blocks() const { return num_blocks_; }
    int64_t n_kv_heads() const { return n_kv_heads_; }
    int64_t head_dim() const { return head_dim_; }
    KVType type() const { return type_; }
    int64_t nbytes() const { return n_layers_ * num_blocks_ * block_nbytes(); }
    int64_t plane_nbytes() const { return plane_nbytes_; }

    // Bytes into an int8 plane.
    static int64_t scales_at(int64_t head_dim) { return kBlockSize * head_dim; }

    // A plane. 64 bytes past its end may be read.
    std::byte* keys(int64_t layer, int64_t block, int64_t kv_head) const {
        int64_t place = block + layer * shift_;
        if (place >= num_blocks_) place -= num_blocks_;
        return data_.get() +
               ((layer * num_blocks_ + place) * 2 * n_kv_heads_ + kv_head) * plane_nbytes_;
    }
    std::byte* values(int64_t layer, int64_t block, int64_t kv_head) const {
        return keys(layer, block, n_kv_heads_ + kv_head);
    }

    // Keys and values of all layers. Throws std::invalid_argument.
    void copy_block(int64_t source, int64_t target);

    // out_keys and out_values: [16 tokens, n_kv_heads, head_dim].
    void read(int64_t layer, int64_t block, float* out_keys, float* out_values) const;

  private:
    int64_t block_nbytes() const { return 2 * n_kv_heads_ * plane_nbytes_; }  // in one layer

    int64_t n_layers_;
    int64_t num_blocks_;
    int64_t n_kv_heads_;
    int64_t head_dim_;
    KVType type_;
    int64_t plane_nbytes_;
    // Places that a layer's blocks lie behind those of the layer before. A huge page is cleared
    // when it is first written: without a shift a block would begin one in all layers at once.
    int64_t shift_;
    std::shared_ptr<std::byte> data_;
};

}  // namespace cierzo
