#include "ops_packing.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "dispatch.h"
#include "ops.h"
#include "packing.h"

namespace cierzo {

namespace {

const uint16_t* bits_of(const Half* p) {
    return reinterpret_cast<const uint16_t*>(p);
}

std::string shape_of(int64_t rows, int64_t cols) {
    return "[" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
}

WeightFormat format_of(const PackRequest& request) {
    check(request.bits == 4 || request.bits == 8, "pack_quantized", "bits", "4 or 8",
          std::to_string(request.bits));
    return weight_format(request.bits == 4 ? "int4" : "int8", request.minimums.data != nullptr);
}

}  // namespace

int64_t checked_packed_nbytes(const std::string& dtype, bool affine, int64_t n_out, int64_t n_in) {
    const WeightFormat format = weight_format(dtype, affine);
    constexpr int64_t kMaxDim = int64_t(1) << 26;
    check(n_out >= 1 && n_out <= kMaxDim && n_in >= 1 && n_in <= kMaxDim, "packed_nbytes", "shape",
          "1 to 2^26 each way", shape_of(n_out, n_in));
    return packed_nbytes(format, n_out, n_in);
}

int64_t checked_packed_nbytes(const PackRequest& request) {
    const WeightFormat format = format_of(request);
    return checked_packed_nbytes(dtype_name(format), is_affine_format(format), request.values.rows,
                                 request.values.cols);
}

void pack_quantized(uint8_t* out, const PackRequest& request) {
    const WeightFormat format = format_of(request);
    const auto& values = request.values;
    const int64_t groups = (values.cols + kGroup - 1) / kGroup;
    const std::string expected = shape_of(values.rows, groups);
    const auto check_notes = [&](const char* name, const Matrix<const Half>& notes) {
        check(notes.rows == values.rows && notes.cols == groups, "pack_quantized", name, expected,
              shape_of(notes.rows, notes.cols));
    };
    check_notes("scales", request.scales);
    if (request.minimums.data != nullptr) check_notes("minimums", request.minimums);
    if (request.bits == 4) {
        // All bits at once first: a loop that may end at any value is not vectorised.
        const int64_t count = values.rows * values.cols;
        const uint8_t bits =
            std::reduce(values.data, values.data + count, uint8_t(0), std::bit_or());
        const uint8_t* offender = values.data;
        if (bits >= 16)
            offender = std::find_if(offender, offender + count, [](uint8_t v) { return v >= 16; });
        check(bits < 16, "pack_quantized", "values", "below 16 for 4 bits",
              bits < 16 ? "" : std::to_string(*offender));
    }
    pack_quantized(out, format, values.data, bits_of(request.scales.data),
                   bits_of(request.minimums.data), values.rows, values.cols);
}

void pack_bf16(uint8_t* out, const Matrix<const float>& weights) {
    pack_bf16(out, weights.data, weights.rows, weights.cols);
}

void quantize(const Matrix<const float>& weights, int bits, uint8_t* values, Half* scales,
              Half* minimums) {
    check(bits == 4 || bits == 8, "quantize", "bits", "4 or 8", std::to_string(bits));
    for (int64_t i = 0; i < weights.rows * weights.cols; ++i)
        if (!std::isfinite(weights.data[i]))
            check(false, "quantize", "w", "finite",
                  std::to_string(weights.data[i]) + " at row " + std::to_string(i / weights.cols));
    kernels().quantize({weights.data, weights.rows, weights.cols, bits, values,
                        reinterpret_cast<uint16_t*>(scales),
                        reinterpret_cast<uint16_t*>(minimums)});
}

void unpack(float* out, const PackedWeight& weight) {
    unpack(out, weight.data, weight.format, weight.n_out, weight.n_in);
}

}  // namespace cierzo
