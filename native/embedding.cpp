// Rows of a packed weight as float32: the token embedding.
#include <cstring>

#include "kernel_functions.h"
#include "simd.h"
#include "thread_pool.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr int64_t kQuads = 8;  // of 4 inputs, in a tile

uint16_t read_u16(const uint8_t* p) {
    uint16_t u;
    std::memcpy(&u, p, sizeof u);
    return u;
}

// Output `row` (of 16) of one tile, quantised values only: out[32].
void read_int4(int32_t* out, const uint8_t* tile, int64_t row) {
    for (int64_t line = 0; line < kQuads / 2; ++line)
        for (int64_t i = 0; i < 4; ++i) {
            const uint8_t pair = tile[line * 64 + row * 4 + i];
            out[line * 4 + i] = pair & 15;
            out[(line + kQuads / 2) * 4 + i] = pair >> 4;
        }
}

void read_int8(int32_t* out, const uint8_t* tile, int64_t row) {
    for (int64_t quad = 0; quad < kQuads; ++quad)
        for (int64_t i = 0; i < 4; ++i) out[quad * 4 + i] = tile[quad * 64 + row * 4 + i];
}

void read_bf16(float* out, const uint8_t* tile, int64_t row) {
    for (int64_t i = 0; i < kGroup; ++i)
        out[i] = bf16_to_f32(read_u16(tile + (i / 2 * kPanel + row) * 4 + i % 2 * 2));
}

// out[32] = output `row` of one tile, dequantised. scale · q is exact in float32 (11 + 8 bits), so
// the affine sum rounds once, as everywhere else.
void read_tile(float* out, const uint8_t* tile, WeightFormat format, int64_t row) {
    if (format == WeightFormat::kBf16) return read_bf16(out, tile, row);
    const bool is_int4 = format == WeightFormat::kInt4 || format == WeightFormat::kInt4Affine;
    const bool affine = format == WeightFormat::kInt4Affine || format == WeightFormat::kInt8Affine;
    int32_t q[kGroup];
    if (is_int4)
        read_int4(q, tile, row);
    else
        read_int8(q, tile, row);
    const uint8_t* scales = tile + (is_int4 ? 256 : 512);
    const float scale = f16_to_f32(read_u16(scales + row * 2));
    const float minimum = affine ? f16_to_f32(read_u16(scales + 2 * kPanel + row * 2)) : 0.0f;
    const int32_t zero = affine ? 0 : is_int4 ? 8 : 128;
    for (int64_t i = 0; i < kGroup; ++i) out[i] = scale * float(q[i] - zero) + minimum;
}

void read_row(float* out, const PackedWeight& weight, int64_t id) {
    const uint8_t* tile = weight.panel(0, id / kPanel);
    for (int64_t begin = 0; begin < weight.n_in; begin += kGroup) {
        float values[kGroup];
        read_tile(values, tile, weight.format, id % kPanel);
        const int64_t count = weight.n_in - begin < kGroup ? weight.n_in - begin : kGroup;
        std::memcpy(out + begin, values, size_t(count) * sizeof(float));
        tile += tile_nbytes(weight.format);
    }
}

}  // namespace

void embed(float* out, const int32_t* token_ids, int64_t num_tokens, const PackedWeight& weight) {
    auto work = [&](const Team& team) {
        const auto [begin, end] = team.share(num_tokens);
        for (int64_t t = begin; t < end; ++t) read_row(out + t * weight.n_in, weight, token_ids[t]);
    };
    if (num_tokens <= 4)
        ThreadPool::instance().run_alone(work);
    else
        ThreadPool::instance().run(work);
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
