// Rows made ready for products: int8 with a scale per group of 32, or bf16.
#include <cfloat>

#include "product.h"
#include "simd.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// Groups of a chunk of tiles. Two panels of weights of that depth stay in L1 (36 KB of 48) while
// blocks of rows, as deep, stream past it; with flatter chunks the partial sums come and go more
// often. Where rows are few, the next chunk's weights are made there meanwhile.
constexpr int64_t kMaxChunkGroups = 18, kFewRowsChunkGroups = 9;

constexpr bool is_symmetric(WeightFormat format) {
    return format == WeightFormat::kInt4 || format == WeightFormat::kInt8;
}

struct Group {
    f32x16 low, high;
};

// Inputs 32 * group ... of a row, zeros past its end.
Group load_group(const float* row, int64_t n_in, int64_t group) {
    const float* p = row + group * kGroup;
    const int64_t left = n_in - group * kGroup;
    return {left >= 16 ? f32x16::load(p) : f32x16::load_partial(p, int(left)),
            left >= 32  ? f32x16::load(p + 16)
            : left > 16 ? f32x16::load_partial(p + 16, int(left - 16))
                        : f32x16::zero()};
}

// Writes one group of a row, number `note` of its block.
void quantize_group(const Block& b, WeightFormat format, int64_t note, const Group& x, float scale,
                    float inverse) {
    int8_t* values = reinterpret_cast<int8_t*>(b.values) + note * kGroup;
    const f32x16 factor = f32x16::broadcast(inverse);
    const i32x16 low = round_to_int(x.low * factor);
    const i32x16 high = round_to_int(x.high * factor);
    store_i8(values, low);
    store_i8(values + 16, high);
    b.scales[note] = scale;
    const int32_t sum = reduce_add(low + high);
    const int32_t zero = format == WeightFormat::kInt4 ? 8 : 128;
    if (is_symmetric(format))
        b.starts[note] = int32_t(uint32_t(-zero) * uint32_t(sum));
    else
        b.scaled_sums[note] = scale * float(sum);
}

}  // namespace

Activations::Activations(WeightFormat format, int64_t rows, int64_t n_in)
    : format_(format), rows_(rows), n_in_(n_in), groups_((n_in + kGroup - 1) / kGroup) {
    // A single block is as high as it has rows, so that the one row of a decode step stays
    // contiguous; AMX reads 16 rows whatever they hold.
    pitch_ = rows >= kBlockRows || use_amx(rows) || is_tiled() ? kBlockRows : int(rows);
    const int64_t value_nbytes = format_ != WeightFormat::kBf16 ? 1 : is_tiled() ? 2 : 4;
    block_value_nbytes_ = groups_ * pitch_ * kGroup * value_nbytes;
    const int64_t chunk = num_blocks() <= kFewBlocks ? kFewRowsChunkGroups : kMaxChunkGroups;
    num_chunks_ = (groups_ + chunk - 1) / chunk;
}

int64_t Activations::nbytes() const {
    const int64_t notes = format_ == WeightFormat::kBf16 ? 0 : groups_ * pitch_ * 8;
    return round_up(num_blocks() * (block_value_nbytes_ + notes), 64);
}

uint8_t* Activations::tiles(int64_t chunk, int64_t block) const {
    const int64_t first = chunk_begin(chunk), groups = chunk_begin(chunk + 1) - first;
    return memory_ + (first * num_blocks() + block * groups) * tile_nbytes(WeightFormat::kBf16);
}

void Activations::prepare(const float* x, const int32_t* row_ids, int64_t begin,
                          int64_t end) const {
    const auto row_at = [&](int64_t i) {
        return x + (row_ids == nullptr ? i - begin : row_ids[i]) * n_in_;
    };
    if (is_tiled()) {
        // Chunk by chunk of a block, so that its tiles are in L1 until all rows are in.
        for (int64_t block = begin / kBlockRows; block * kBlockRows < end; ++block)
            for (int64_t chunk = 0; chunk < num_chunks_; ++chunk)
                for (int64_t i = block * kBlockRows; i < (block + 1) * kBlockRows; ++i)
                    if (i >= begin && i < end) prepare_tiles(row_at(i), i, chunk);
        return;
    }
    for (int64_t i = begin; i < end; ++i) {
        const float* row = row_at(i);
        if (format_ == WeightFormat::kBf16)
            prepare_bf16(row, i);
        else
            prepare_int(row, i);
    }
}

// Groups are taken sixteen at a time: their divisions are one vector's, and their reductions
// overlap.
void Activations::prepare_int(const float* row, int64_t index) const {
    const Block b = block(index / kBlockRows);
    const int64_t r = index % kBlockRows;
    for (int64_t begin = 0; begin < groups_; begin += kLanes) {
        const int64_t end = begin + kLanes < groups_ ? begin + kLanes : groups_;
        alignas(64) float scales[kLanes] = {};
        alignas(64) float inverses[kLanes];
        for (int64_t g = begin; g < end; ++g) {
            const Group x = load_group(row, n_in_, g);
            scales[g - begin] = reduce_max(max(abs(x.low), abs(x.high)));
        }
        f32x16 scale = f32x16::load(scales) / f32x16::broadcast(127.0f);
        // Below the smallest normal number the flushed inverse would be infinite: the group is
        // zero.
        scale = select_less(scale, f32x16::broadcast(FLT_MIN), f32x16::zero(), scale);
        scale.store(scales);
        select_less(f32x16::zero(), scale, f32x16::broadcast(1.0f) / scale, f32x16::zero())
            .store(inverses);
        for (int64_t g = begin; g < end; ++g)
            quantize_group(b, format_, g * b.pitch + r, load_group(row, n_in_, g),
                           scales[g - begin], inverses[g - begin]);
    }
}

namespace {

// Inputs [16 * half, 16 * half + 16) of a group; denormals become zeros as the AMX unit reads them,
// before rounding could make them normal numbers. (An addition, because a product with 1 would be
// optimised away.)
inline f32x16 load_half(const float* row, int64_t n_in, int64_t group, int64_t half) {
    const int64_t k = group * kGroup + half * kLanes;
    const int64_t left = n_in - k;
    const f32x16 x = left >= kLanes ? f32x16::load(row + k)
                     : left > 0     ? f32x16::load_partial(row + k, int(left))
                                    : f32x16::zero();
    return x + f32x16::zero();
}

}  // namespace

void Activations::prepare_bf16(const float* row, int64_t index) const {
    const Block b = block(index / kBlockRows);
    const int64_t r = index % kBlockRows;
    for (int64_t g = 0; g < groups_; ++g) {
        float* out = reinterpret_cast<float*>(b.values) + (g * b.pitch + r) * kGroup;
        for (int64_t half = 0; half < 2; ++half) {
            alignas(64) uint16_t rounded[kLanes];
            store_bf16(rounded, load_half(row, n_in_, g, half));
            f32x16::load_bf16(rounded).store(out + half * kLanes);
        }
    }
}

void Activations::prepare_tiles(const float* row, int64_t index, int64_t chunk) const {
    uint8_t* out = tiles(chunk, index / kBlockRows) + index % kBlockRows * kGroup * 2;
    for (int64_t g = chunk_begin(chunk); g < chunk_begin(chunk + 1); ++g) {
        store_bf16_pair(reinterpret_cast<uint16_t*>(out), load_half(row, n_in_, g, 0),
                        load_half(row, n_in_, g, 1));
        out += tile_nbytes(WeightFormat::kBf16);
    }
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
