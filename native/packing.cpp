#include "packing.h"

#include <cstring>

#include "half.h"
#include "thread_pool.h"

namespace cierzo {

namespace {

bool is_int4(WeightFormat format) {
    return format == WeightFormat::kInt4 || format == WeightFormat::kInt4Affine;
}
bool is_affine(WeightFormat format) {
    return format == WeightFormat::kInt4Affine || format == WeightFormat::kInt8Affine;
}

// What stands for a zero weight: the padding of symmetric formats.
uint8_t zero_point(WeightFormat format) {
    return is_affine(format) ? 0 : is_int4(format) ? 8 : 128;
}

// Position of (output, input) in a tile of bytes before nibbles are merged: quad-major, output,
// input.
int64_t byte_index(int64_t output, int64_t input) {
    return input / 4 * 64 + output * 4 + input % 4;
}
// Position of (output, input) in a bf16 tile, in elements.
int64_t pair_index(int64_t output, int64_t input) {
    return input / 2 * 32 + output * 2 + input % 2;
}

// f(tile, panel, group) over all tiles, panels shared over the threads.
template <class F>
void for_each_tile(int64_t n_out, int64_t n_in, WeightFormat format, F f) {
    const int64_t groups = (n_in + kGroup - 1) / kGroup;
    const int64_t panels = (n_out + kPanel - 1) / kPanel;
    ThreadPool::instance().parallel_for_dynamic(panels, 1, [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p)
            for (int64_t g = 0; g < groups; ++g) f((p * groups + g) * tile_nbytes(format), p, g);
    });
}

int64_t at_most(int64_t left, int64_t limit) {
    return left < limit ? left : limit;
}

}  // namespace

int64_t packed_nbytes(WeightFormat format, int64_t n_out, int64_t n_in) {
    return PackedWeight{nullptr, format, n_out, n_in, 1}.nbytes();
}

void pack_quantized(uint8_t* out, WeightFormat format, const uint8_t* values,
                    const uint16_t* scales, const uint16_t* minimums, int64_t n_out, int64_t n_in) {
    const int64_t groups = (n_in + kGroup - 1) / kGroup;
    for_each_tile(n_out, n_in, format, [&](int64_t offset, int64_t p, int64_t g) {
        uint8_t bytes[kPanel * kGroup];
        uint16_t notes[2 * kPanel] = {};
        std::memset(bytes, zero_point(format), sizeof bytes);
        const int64_t inputs = at_most(n_in - g * kGroup, kGroup);
        for (int64_t o = 0; o < at_most(n_out - p * kPanel, kPanel); ++o) {
            const int64_t row = p * kPanel + o;
            const uint8_t* row_values = values + row * n_in + g * kGroup;
            int64_t i = 0;
            for (; i + 4 <= inputs; i += 4)
                std::memcpy(bytes + byte_index(o, i), row_values + i, 4);
            for (; i < inputs; ++i) bytes[byte_index(o, i)] = row_values[i];
            notes[o] = scales[row * groups + g];
            if (minimums != nullptr) notes[kPanel + o] = minimums[row * groups + g];
        }
        uint8_t* tile = out + offset;
        if (is_int4(format)) {
            for (int i = 0; i < 256; ++i) tile[i] = uint8_t(bytes[i] | bytes[i + 256] << 4);
            tile += 256;
        } else {
            std::memcpy(tile, bytes, sizeof bytes);
            tile += sizeof bytes;
        }
        std::memcpy(tile, notes, is_affine(format) ? 64 : 32);
    });
}

void pack_bf16(uint8_t* out, const float* weights, int64_t n_out, int64_t n_in) {
    for_each_tile(n_out, n_in, WeightFormat::kBf16, [&](int64_t offset, int64_t p, int64_t g) {
        uint16_t tile[kPanel * kGroup] = {};
        for (int64_t o = 0; o < at_most(n_out - p * kPanel, kPanel); ++o)
            for (int64_t i = 0; i < at_most(n_in - g * kGroup, kGroup); ++i)
                tile[pair_index(o, i)] =
                    f32_to_bf16(weights[(p * kPanel + o) * n_in + g * kGroup + i]);
        std::memcpy(out + offset, tile, sizeof tile);
    });
}

void unpack(float* weights, const uint8_t* data, WeightFormat format, int64_t n_out, int64_t n_in) {
    for_each_tile(n_out, n_in, format, [&](int64_t offset, int64_t p, int64_t g) {
        const uint8_t* tile = data + offset;
        const bool int4 = is_int4(format), affine = is_affine(format);
        uint16_t notes[2 * kPanel] = {};
        if (format != WeightFormat::kBf16)
            std::memcpy(notes, tile + (int4 ? 256 : 512), affine ? 64 : 32);
        for (int64_t o = 0; o < at_most(n_out - p * kPanel, kPanel); ++o) {
            float* row = weights + (p * kPanel + o) * n_in + g * kGroup;
            for (int64_t i = 0; i < at_most(n_in - g * kGroup, kGroup); ++i) {
                if (format == WeightFormat::kBf16) {
                    uint16_t bits;
                    std::memcpy(&bits, tile + 2 * pair_index(o, i), 2);
                    row[i] = bf16_to_f32(bits);
                    continue;
                }
                const int64_t at = byte_index(o, i);
                const int q = !int4 ? tile[at] : at < 256 ? tile[at] & 15 : tile[at - 256] >> 4;
                const float scale = f16_to_f32(notes[o]);
                row[i] = affine ? scale * float(q) + f16_to_f32(notes[kPanel + o])
                                : scale * float(q - zero_point(format));
            }
        }
    });
}

}  // namespace cierzo
