#include "kv_cache.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "half.h"
#include "tensor.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cierzo {

namespace {

constexpr int64_t kReadAhead = 64;  // bytes a kernel may read past the last value
constexpr int64_t kScaleNbytes = 2;
constexpr int64_t kHugePage = 2 << 20;           // bytes
constexpr int64_t kMaxBytes = int64_t(1) << 46;  // 64 TiB: far above any machine

void check_size(const char* argument, int64_t value, int64_t lowest, int64_t highest) {
    if (value < lowest || value > highest)
        throw std::invalid_argument(std::string("KVCache: ") + argument + " must be between " +
                                    std::to_string(lowest) + " and " + std::to_string(highest) +
                                    "; got " + std::to_string(value));
}

// A block's keys of one layer and head are a page or less, and blocks lie anywhere: with pages of 4
// KB every one would cost a walk of the page tables.
void ask_for_huge_pages(uintptr_t begin, int64_t nbytes) {
#if defined(__linux__)
    constexpr uintptr_t kPage = 4096;
    const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
    const uintptr_t last = (begin + uintptr_t(nbytes)) / kPage * kPage;
    // Refused where the system has none; then the pages are small.
    if (first < last) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
    (void)begin, (void)nbytes;
#endif
}

// Zero-filled and 64-byte aligned. calloc, not memset: pages never written stay unbacked.
std::shared_ptr<std::byte> allocate_zeroed(int64_t nbytes) {
    void* p = std::calloc(1, size_t(nbytes) + kAlignment);
    if (p == nullptr) throw std::bad_alloc();
    const uintptr_t aligned = (uintptr_t(p) + kAlignment - 1) / kAlignment * kAlignment;
    ask_for_huge_pages(aligned, nbytes);
    return {reinterpret_cast<std::byte*>(aligned), [p](std::byte*) { std::free(p); }};
}

float bf16_at(const std::byte* plane, int64_t i) {
    uint16_t bits;
    std::memcpy(&bits, plane + i * 2, sizeof bits);
    return bf16_to_f32(bits);
}

}  // namespace

const char* kv_type_name(KVType type) {
    return type == KVType::kInt8 ? "int8" : "bf16";
}

KVType kv_type_named(const std::string& name) {
    for (const KVType type : {KVType::kBf16, KVType::kInt8})
        if (name == kv_type_name(type)) return type;
    throw std::invalid_argument("KVCache: dtype must be bf16 or int8; got " + name);
}

KVCache::KVCache(int64_t n_layers, int64_t num_blocks, int64_t n_kv_heads, int64_t head_dim,
                 KVType type)
    : n_layers_(n_layers),
      num_blocks_(num_blocks),
      n_kv_heads_(n_kv_heads),
      head_dim_(head_dim),
      type_(type) {
    check_size("n_layers", n_layers, 1, 1 << 16);
    // A slot, block_id * 16 + offset, must fit 32 bits.
    check_size("num_blocks", num_blocks, 1, (int64_t(1) << 31) / kBlockSize - 1);
    check_size("n_kv_heads", n_kv_heads, 1, 1 << 12);
    check_size("head_dim", head_dim, 2, kMaxHeadDim);
    if (head_dim % 2 != 0)
        throw std::invalid_argument("KVCache: head_dim must be even; got " +
                                    std::to_string(head_dim));
    plane_nbytes_ = kBlockSize * (type == KVType::kInt8 ? head_dim + kScaleNbytes : 2 * head_dim);
    if (num_blocks > kMaxBytes / (n_layers * block_nbytes())) throw std::bad_alloc();
    shift_ = std::min(num_blocks, kHugePage / block_nbytes()) / n_layers;
    data_ = allocate_zeroed(nbytes() + kReadAhead);
}

void KVCache::copy_block(int64_t source, int64_t target) {
    for (const int64_t block : {source, target})
        if (block < 0 || block >= num_blocks_)
            throw std::invalid_argument("KVCache.copy_block: blocks must be below " +
                                        std::to_string(num_blocks_) + "; got " +
                                        std::to_string(block));
    if (source == target) return;
    for (int64_t layer = 0; layer < n_layers_; ++layer)
        std::memcpy(keys(layer, target, 0), keys(layer, source, 0), size_t(block_nbytes()));
}

void KVCache::read(int64_t layer, int64_t block, float* out_keys, float* out_values) const {
    if (layer < 0 || layer >= n_layers_ || block < 0 || block >= num_blocks_)
        throw std::invalid_argument("KVCache.read: layer and block must be below " +
                                    std::to_string(n_layers_) + " and " +
                                    std::to_string(num_blocks_) + "; got " + std::to_string(layer) +
                                    " and " + std::to_string(block));
    const auto scale = [&](const std::byte* plane, int64_t t) {
        return bf16_at(plane + scales_at(head_dim_), t);
    };
    // Number d of token t's row.
    const auto key = [&](const std::byte* plane, int64_t t, int64_t d) {
        if (type_ == KVType::kBf16) return bf16_at(plane, (d / 2 * kBlockSize + t) * 2 + d % 2);
        return float(int8_t(plane[d * kBlockSize + t])) * scale(plane, t);
    };
    const auto value = [&](const std::byte* plane, int64_t t, int64_t d) {
        if (type_ == KVType::kBf16) return bf16_at(plane, (t / 2 * head_dim_ + d) * 2 + t % 2);
        return float(int8_t(plane[t * head_dim_ + d])) * scale(plane, t);
    };
    for (int64_t h = 0; h < n_kv_heads_; ++h)
        for (int64_t t = 0; t < kBlockSize; ++t)
            for (int64_t d = 0; d < head_dim_; ++d) {
                const int64_t i = (t * n_kv_heads_ + h) * head_dim_ + d;
                out_keys[i] = key(keys(layer, block, h), t, d);
                out_values[i] = value(values(layer, block, h), t, d);
            }
}

}  // namespace cierzo
