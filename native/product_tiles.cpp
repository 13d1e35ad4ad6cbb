// Panels of bf16 weights, or of weights made bf16 here, times tiled bf16 rows on the AMX unit.
//
// Two blocks of rows times two panels stay in result tiles 0-3 while a chunk of groups goes by, so
// that each loaded tile is used twice; between chunks the sums wait in memory. The weights of a
// chunk stay in L1 and the rows stream past it from L2, whose bandwidth is the limit. Few rows are
// limited by making the weights bf16, which is then done for the next chunk beside the products of
// this one: see docs/experiments.md.
#include <utility>

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

// What is done for the weights of later chunks with every group of this one, a little each time.
class Ahead {
  public:
    Ahead(WeightFormat format, int64_t num_steps) : format_(format), num_steps_(num_steps) {}
    // A panel: some groups at `packed` become `tiles` (null: none do), and as many at `asked` (may
    // be null) are asked for.
    void add(int64_t groups, const uint8_t* packed, uint8_t* tiles, const uint8_t* asked) {
        panels_[num_panels_++] = {packed, tiles, asked};
        groups_ = groups;
    }

    void next() {
        for (due_ += num_panels_ * groups_; due_ >= num_steps_; due_ -= num_steps_) one_group();
    }

  private:
    struct Panel {
        const uint8_t* packed;
        uint8_t* tiles;
        const uint8_t* asked;
    };

    void one_group() {
        const Panel& panel = panels_[done_ / groups_];
        const int64_t group = done_++ % groups_, nbytes = tile_nbytes(format_);
        if (panel.asked != nullptr)
            for (int64_t i = 0; i < nbytes; i += 64) prefetch_far(panel.asked + group * nbytes + i);
        if (panel.tiles != nullptr)
            dequantize_tiles(panel.tiles + group * kTileNbytes, format_,
                             panel.packed + group * nbytes, 1);
    }

    WeightFormat format_;
    int64_t num_steps_;
    Panel panels_[2];
    int64_t num_panels_ = 0;
    int64_t groups_ = 0;
    int64_t due_ = 0;   // groups, times steps
    int64_t done_ = 0;  // groups, of one panel after the other
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
    tile_load_past_l1<4>(rows + offset, 64);
    tile_load<6>(chunk.weights[0] + offset, 64);
    if constexpr (kTurn) turn.take<0>();
    tile_dot_bf16<0, 4, 6>();
    if constexpr (kPanels == 2) {
        tile_load<7>(chunk.weights[1] + offset, 64);
        if constexpr (kTurn) turn.take<1>();
        tile_dot_bf16<1, 4, 7>();
    }
    if constexpr (kBlocks == 2) {
        tile_load_past_l1<5>(rows + chunk.groups * kTileNbytes + offset, 64);
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
void chunk_products(float* sums, int64_t panel_pitch, const Chunk& chunk, Ahead ahead,
                    int64_t num_blocks, bool from_zero) {
    const int64_t block_nbytes = chunk.groups * kTileNbytes;
    Turn turn{nullptr, sums, panel_pitch, from_zero};
    int64_t b = 0;
    for (; b + 2 <= num_blocks; b += 2) {
        const uint8_t* rows = chunk.rows + b * block_nbytes;
        group_products<2, kPanels, true>(chunk, rows, 0, turn);
        ahead.next();
        for (int64_t g = 1; g < chunk.groups; ++g) {
            group_products<2, kPanels, false>(chunk, rows, g, turn);
            ahead.next();
        }
        turn.done = turn.next;
        turn.next += 2 * kBlockFloats;
    }
    if (b > 0) store_results<2, kPanels>(turn.done, panel_pitch);
    if (b == num_blocks) return;
    turn.done = nullptr;
    const uint8_t* rows = chunk.rows + b * block_nbytes;
    group_products<1, kPanels, true>(chunk, rows, 0, turn);
    ahead.next();
    for (int64_t g = 1; g < chunk.groups; ++g) {
        group_products<1, kPanels, false>(chunk, rows, g, turn);
        ahead.next();
    }
    store_results<1, kPanels>(turn.next, panel_pitch);
}

}  // namespace

TileProducts::TileProducts(const Activations& x, int64_t block_begin, int64_t block_end,
                           const PackedWeight& weight, int64_t expert, int64_t panel_begin,
                           int64_t panel_end)
    : x_(x),
      block_begin_(block_begin),
      num_blocks_(block_end - block_begin),
      weight_(weight),
      expert_(expert),
      panel_begin_(panel_begin),
      panel_end_(panel_end) {
    const int64_t nbytes = 2 * x.max_chunk_groups() * kTileNbytes;
    tiles_[0] = scratch_array<uint8_t>(ScratchSlot::kDequantized, 2 * nbytes);
    tiles_[1] = tiles_[0] + nbytes;
}

const uint8_t* TileProducts::packed(Place at, int64_t panel) const {
    return weight_.panel(expert_, at.panel + panel) +
           x_.chunk_begin(at.chunk) * tile_nbytes(weight_.format);
}

void TileProducts::make(Place at, uint8_t* tiles) const {
    for (int64_t p = 0; p < num_panels(at); ++p)
        dequantize_tiles(tiles + p * groups_of(at) * kTileNbytes, weight_.format, packed(at, p),
                         groups_of(at));
}

TileProducts::Place TileProducts::after(Place here, int64_t chunk_begin, int64_t chunk_end) const {
    if (here.chunk + 1 < chunk_end) return {here.panel, here.chunk + 1};
    if (here.panel + 2 < panel_end_) return {here.panel + 2, chunk_begin};
    if (chunk_end < x_.num_chunks()) return {panel_begin_, chunk_end};
    return kNowhere;
}

void TileProducts::multiply(float* sums, int64_t panel, int64_t chunk_begin, int64_t chunk_end) {
    const bool is_bf16 = weight_.format == WeightFormat::kBf16;
    const bool makes_ahead = !is_bf16 && num_blocks_ <= kFewBlocks;
    for (int64_t c = chunk_begin; c < chunk_end; ++c) {
        const Place here{panel, c}, next = after(here, chunk_begin, chunk_end);
        const int64_t groups = groups_of(here);
        if (!is_bf16 && made_ != here) make(here, tiles_[0]);
        Chunk chunk{x_.tiles(c, block_begin_), {}, groups};
        for (int64_t p = 0; p < num_panels(here); ++p)
            chunk.weights[p] = is_bf16 ? packed(here, p) : tiles_[0] + p * groups * kTileNbytes;

        Ahead ahead(weight_.format, (num_blocks_ + 1) / 2 * groups);
        const Place asked =
            makes_ahead && next != kNowhere ? after(next, chunk_begin, chunk_end) : next;
        for (int64_t p = 0; next != kNowhere && p < num_panels(next); ++p)
            ahead.add(groups_of(next), packed(next, p),
                      makes_ahead ? tiles_[1] + p * groups_of(next) * kTileNbytes : nullptr,
                      asked != kNowhere ? packed(asked, p) : nullptr);
        const auto products = num_panels(here) == 2 ? chunk_products<2> : chunk_products<1>;
        products(sums, num_blocks_ * kBlockFloats, chunk, ahead, num_blocks_, c == 0);
        if (!makes_ahead) continue;
        std::swap(tiles_[0], tiles_[1]);
        made_ = next;
    }
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE

#endif
