// Rows made ready for products: int8 with a scale per group of 32, or bf16.
#include <cfloat>

#include "product.h"
#include "simd.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr bool is_symmetric(WeightFormat format) {
    return format == WeightFormat::kInt4 || format == WeightFormat::kInt8;
}

}  // namespace

Activations::Activations(WeightFormat format, int64_t rows, int64_t n_in)
    : format_(format), rows_(rows), n_in_(n_in), groups_((n_in + kGroup - 1) / kGroup) {
    // A single block is as high as it has rows, so that the one row of a decode step stays
    // contiguous; AMX reads 16 rows whatever they hold.
    pitch_ = rows >= kBlockRows || use_amx(format, rows) ? kBlockRows : int(rows);
}

int64_t Activations::block_value_nbytes() const {
    // bf16 rows may be kept as float (vector path): room for the larger.
    return groups_ * pitch_ * (format_ == WeightFormat::kBf16 ? kGroup * 4 : kGroup);
}

int64_t Activations::nbytes() const {
    const int64_t notes = format_ == WeightFormat::kBf16 ? 0 : groups_ * pitch_ * 8;
    return round_up(num_blocks() * (block_value_nbytes() + notes), 64);
}

Block Activations::block(int64_t index) const {
    const int64_t rows_left = rows_ - index * kBlockRows;
    uint8_t* notes = memory_ + num_blocks() * block_value_nbytes();
    const int64_t note_count = groups_ * pitch_;
    Block b;
    b.values = memory_ + index * block_value_nbytes();
    b.scales = reinterpret_cast<float*>(notes) + index * note_count;
    uint8_t* second = notes + (num_blocks() + index) * note_count * 4;
    b.starts = reinterpret_cast<int32_t*>(second);
    b.scaled_sums = reinterpret_cast<float*>(second);
    b.rows = int(rows_left < kBlockRows ? rows_left : kBlockRows);
    b.pitch = pitch_;
    return b;
}

void Activations::prepare(const float* x, const int32_t* row_ids, int64_t begin,
                          int64_t end) const {
    for (int64_t i = begin; i < end; ++i) {
        const float* row = x + (row_ids == nullptr ? i : row_ids[i]) * n_in_;
        if (format_ == WeightFormat::kBf16)
            prepare_bf16(row, i);
        else
            prepare_int(row, i);
    }
}

void Activations::prepare_int(const float* row, int64_t index) const {
    const Block b = block(index / kBlockRows);
    const int64_t r = index % kBlockRows;
    int8_t* values = reinterpret_cast<int8_t*>(b.values);
    const bool symmetric = is_symmetric(format_);
    const int32_t zero = format_ == WeightFormat::kInt4 ? 8 : 128;
    for (int64_t g = 0; g < groups_; ++g) {
        const int64_t left = n_in_ - g * kGroup;
        const float* p = row + g * kGroup;
        const f32x16 a = left >= 16 ? f32x16::load(p) : f32x16::load_partial(p, int(left));
        const f32x16 c = left >= 32  ? f32x16::load(p + 16)
                         : left > 16 ? f32x16::load_partial(p + 16, int(left - 16))
                                     : f32x16::zero();
        float scale = reduce_max(max(abs(a), abs(c))) / 127.0f;
        // Below the smallest normal number the flushed inverse would be infinite: the group is
        // zero.
        if (scale < FLT_MIN) scale = 0.0f;
        const f32x16 inverse = f32x16::broadcast(scale > 0.0f ? 1.0f / scale : 0.0f);
        const int64_t note = g * b.pitch + r;
        const i32x16 qa = round_to_int(a * inverse);
        const i32x16 qc = round_to_int(c * inverse);
        store_i8(values + note * kGroup, qa);
        store_i8(values + note * kGroup + 16, qc);
        b.scales[note] = scale;
        const int32_t sum = reduce_add(qa + qc);
        if (symmetric)
            b.starts[note] = int32_t(uint32_t(-zero) * uint32_t(sum));
        else
            b.scaled_sums[note] = scale * float(sum);
    }
}

void Activations::prepare_bf16(const float* row, int64_t index) const {
    const Block b = block(index / kBlockRows);
    const int64_t r = index % kBlockRows;
    const bool tiles = use_amx(format_, b.rows);
    for (int64_t g = 0; g < groups_; ++g) {
        alignas(64) uint16_t rounded[kGroup];
        for (int64_t half = 0; half < 2; ++half) {
            const int64_t k = g * kGroup + half * 16;
            const int64_t left = n_in_ - k;
            const f32x16 v = left >= 16 ? f32x16::load(row + k)
                             : left > 0 ? f32x16::load_partial(row + k, int(left))
                                        : f32x16::zero();
            store_bf16(rounded + half * 16, v);
        }
        if (tiles) {
            std::memcpy(b.values + (g * kBlockRows + r) * sizeof rounded, rounded, sizeof rounded);
        } else {
            float* out = reinterpret_cast<float*>(b.values) + (g * b.pitch + r) * kGroup;
            f32x16::load_bf16(rounded).store(out);
            f32x16::load_bf16(rounded + 16).store(out + 16);
        }
    }
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
