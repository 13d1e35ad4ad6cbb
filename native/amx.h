// The AMX tile unit: eight tile registers of up to 16 rows x 64 bytes. Only for CIERZO_ISA_LEVEL 3.
//
// Own wrappers instead of the compiler's: gcc 12 declares an 8-byte operand for ldtilecfg (so it
// may drop the stores to the rest of the configuration) and no memory clobber for tile loads (so it
// may move a store past the load that needs it).
#pragma once

#include <cstdint>

#include "tensor.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

struct TileConfig {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_nbytes[16] = {};
    uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

template <int kTile>
inline void tile_load(const void* p, int64_t stride_nbytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride_nbytes), "i"(kTile)
                 : "memory");
}
// The same past L1, for what streams by: what lies in L1 stays there.
template <int kTile>
inline void tile_load_past_l1(const void* p, int64_t stride_nbytes) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride_nbytes), "i"(kTile)
                 : "memory");
}
template <int kTile>
inline void tile_store(void* p, int64_t stride_nbytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride_nbytes), "i"(kTile)
                 : "memory");
}
template <int kTile>
inline void tile_zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
// C += A (signed) · B (signed), int8 to int32.
template <int kC, int kA, int kB>
inline void tile_dot_ss() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}
// C += A (signed) · B (unsigned).
template <int kC, int kA, int kB>
inline void tile_dot_su() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}
// C += A · B, bf16 to f32.
template <int kC, int kA, int kB>
inline void tile_dot_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}

// Tiles 0-3 hold results (rows x 16), 4-5 activations (rows), 6-7 weights, each 32 inputs deep:
// half a tile for int8 (a group is 32 inputs), a full one for bf16. The unit's time follows the
// rows.
inline TileConfig tile_config(WeightFormat format, int64_t rows) {
    const bool bf16 = format == WeightFormat::kBf16;
    TileConfig config;
    for (int t = 0; t < 8; ++t) {
        config.rows[t] = uint8_t(t < 6 ? (rows < 16 ? rows : 16) : bf16 ? 16 : 8);
        config.row_nbytes[t] = uint16_t((t == 4 || t == 5) && !bf16 ? 32 : 64);
    }
    return config;
}

inline void tile_configure(const TileConfig& config) {
    asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
}
inline void tile_release() {
    asm volatile("tilerelease" ::: "memory");
}

// Tiles configured while in scope, on this thread. Released at the end: a thread with live tile
// state pays for it at every context switch.
class TileScope {
  public:
    explicit TileScope(WeightFormat format, int64_t rows = 16)
        : TileScope(tile_config(format, rows)) {}
    explicit TileScope(const TileConfig& config) { tile_configure(config); }
    ~TileScope() { tile_release(); }
    TileScope(const TileScope&) = delete;
    TileScope& operator=(const TileScope&) = delete;
};

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
