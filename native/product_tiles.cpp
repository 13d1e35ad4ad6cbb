// Panels of bf16 weights, or of weights made bf16 here, times tiled bf16 rows on the AMX unit.
//
// Two blocks of rows times two panels stay in result tiles 0-3 while a chunk of groups goes by, so
// that each loaded tile is used twice; between chunks the sums wait in memory. The weights of a
// chunk stay in L1 and the rows stream past from L2, whose bandwidth is the limit: see
// docs/experiments.md.
#include "dequantize.h"
#include "product.h"
#include "scratch.h"
#include "simd.h"

#if CIERZO_ISA_LEVEL >= 3

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr int64_t kTileNbytes = tile_nbytes(WeightFormat::kBf16);
constexpr int64_t kBlockFloats = kBlockRows * kPanel;

// One chunk of rows and weights.
struct Chunk {
    const uint8_t* rows;        // [blocks][groups] tiles
    const uint8_t* weights[2];  // [groups] tiles of each panel
    int64_t groups;
};

// Asks for the weights of the next chunk, a few lines with every group of this one: all at once
// they would wait for each other.
struct Prefetch {
    const uint8_t* panels[2];  // as they are packed
    int64_t nbytes;            // of each
    int64_t step;              // of each, with every group
    int64_t position = 0;

    void next() {
        if (position >= nbytes) return;
        for (int64_t end = position + step; position < end; position += 64) {
            prefetch(panels[0] + position);
            prefetch(panels[1] + position);
        }
    }
};

// Result tile kTile passes from one place in memory to the next: kTile % 2 counts panels, kTile / 2
// blocks.
struct Turn {
    float* done;  // null: nothing to store
    float* next;  // null: nothing to load
    int64_t panel_pitch;
    bool from_zero;

    template <int kTile>
    void take() const {
        const int64_t offset = kTile % 2 * panel_pitch + kTile / 2 * kBlockFloats;
        if (done != nullptr) tile_store<kTile>(done + offset, 64);
        if (next == nullptr) return;
        if (from_zero)
            tile_zero<kTile>();
        else
            tile_load<kTile>(next + offset, 64);
    }
};

// The products of one group. Each result tile takes its turn just before its product, so that the
// unit multiplies while it stores and loads: all four turns at once would cost it 60 cycles.
template <int kBlocks, int kPanels, bool kTurn>
inline void group_products(const Chunk& chunk, const uint8_t* rows, int64_t group,
                           const Turn& turn) {
    const int64_t offset = group * kTileNbytes;
    tile_load<4>(rows + offset, 64);
    tile_load<6>(chunk.weights[0] + offset, 64);
    if constexpr (kTurn) turn.take<0>();
    tile_dot_bf16<0, 4, 6>();
    if constexpr (kPanels == 2) {
        tile_load<7>(chunk.weights[1] + offset, 64);
        if constexpr (kTurn) turn.take<1>();
        tile_dot_bf16<1, 4, 7>();
    }
    if constexpr (kBlocks == 2) {
        tile_load<5>(rows + chunk.groups * kTileNbytes + offset, 64);
        if constexpr (kTurn) turn.take<2>();
        tile_dot_bf16<2, 5, 6>();
        if constexpr (kPanels == 2) {
            if constexpr (kTurn) turn.take<3>();
            tile_dot_bf16<3, 5, 7>();
        }
    }
}

template <int kBlocks, int kPanels>
void store_results(float* sums, int64_t panel_pitch) {
    const Turn turn{sums, nullptr, panel_pitch, false};
    turn.take<0>();
    if constexpr (kPanels == 2) turn.take<1>();
    if constexpr (kBlocks == 2) turn.take<2>();
    if constexpr (kBlocks == 2 && kPanels == 2) turn.take<3>();
}

template <int kPanels>
void chunk_products(float* sums, int64_t panel_pitch, const Chunk& chunk, Prefetch prefetch,
                    int64_t num_blocks, bool from_zero) {
    const int64_t block_nbytes = chunk.groups * kTileNbytes;
    Turn turn{nullptr, sums, panel_pitch, from_zero};
    int64_t b = 0;
    for (; b + 2 <= num_blocks; b += 2) {
        const uint8_t* rows = chunk.rows + b * block_nbytes;
        group_products<2, kPanels, true>(chunk, rows, 0, turn);
        prefetch.next();
        for (int64_t g = 1; g < chunk.groups; ++g) {
            group_products<2, kPanels, false>(chunk, rows, g, turn);
            prefetch.next();
        }
        turn.done = turn.next;
        turn.next += 2 * kBlockFloats;
    }
    if (b > 0) store_results<2, kPanels>(turn.done, panel_pitch);
    if (b == num_blocks) return;
    turn.done = nullptr;
    const uint8_t* rows = chunk.rows + b * block_nbytes;
    group_products<1, kPanels, true>(chunk, rows, 0, turn);
    prefetch.next();
    for (int64_t g = 1; g < chunk.groups; ++g) {
        group_products<1, kPanels, false>(chunk, rows, g, turn);
        prefetch.next();
    }
    store_results<1, kPanels>(turn.next, panel_pitch);
}

}  // namespace

void tile_products(float* sums, const Activations& x, int64_t block_begin, int64_t block_end,
                   const PackedWeight& weight, int64_t expert, int64_t panel, int64_t num_panels,
                   int64_t chunk_begin, int64_t chunk_end) {
    const int64_t num_blocks = block_end - block_begin;
    const int64_t packed_nbytes = tile_nbytes(weight.format);
    const bool is_bf16 = weight.format == WeightFormat::kBf16;
    const auto packed = [&](int64_t c, int64_t p) {
        return weight.panel(expert, p) + x.chunk_begin(c) * packed_nbytes;
    };
    for (int64_t c = chunk_begin; c < chunk_end; ++c) {
        const int64_t groups = x.chunk_begin(c + 1) - x.chunk_begin(c);
        Chunk chunk{x.tiles(c, block_begin), {}, groups};
        uint8_t* made = nullptr;
        if (!is_bf16)
            made = scratch_array<uint8_t>(ScratchSlot::kDequantized, 2 * groups * kTileNbytes);
        for (int64_t p = 0; p < num_panels; ++p) {
            chunk.weights[p] = is_bf16 ? packed(c, panel + p) : made + p * groups * kTileNbytes;
            if (!is_bf16)
                dequantize_tiles(made + p * groups * kTileNbytes, weight.format,
                                 packed(c, panel + p), groups);
        }
        // After a pass the next panels' come; past the last panel any address will do.
        const bool last = c + 1 == chunk_end;
        const int64_t next = last ? chunk_begin : c + 1, next_panel = last ? panel + 2 : panel;
        const int64_t nbytes = groups * packed_nbytes;
        const int64_t steps = (num_blocks + 1) / 2 * groups;
        const Prefetch prefetch{{packed(next, next_panel), packed(next, next_panel + 1)},
                                nbytes,
                                round_up((nbytes + steps - 1) / steps, 64)};
        const auto products = num_panels == 2 ? chunk_products<2> : chunk_products<1>;
        products(sums, num_blocks * kBlockFloats, chunk, prefetch, num_blocks, c == 0);
    }
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE

#endif
