// Checked set-up work: packing, quantising, unpacking. Throws std::invalid_argument like ops.h.
#pragma once

#include <cstdint>
#include <string>

#include "tensor.h"

namespace cierzo {

struct Half {
    uint16_t bits;
};

template <class T>
struct Matrix {
    T* data;
    int64_t rows, cols;
};

struct PackRequest {
    Matrix<const uint8_t> values;  // [n_out, n_in]
    Matrix<const Half> scales;     // [n_out, ceil(n_in / 32)]
    Matrix<const Half> minimums;   // the same, or null data: symmetric
    int bits;                      // 4 or 8
};

int64_t checked_packed_nbytes(const std::string& dtype, bool affine, int64_t n_out, int64_t n_in);
int64_t checked_packed_nbytes(const PackRequest& request);
// `out` has checked_packed_nbytes().
void pack_quantized(uint8_t* out, const PackRequest& request);
void pack_bf16(uint8_t* out, const Matrix<const float>& weights);
// Weights that are not finite are refused: no scale could stand for them.
void quantize(const Matrix<const float>& weights, int bits, uint8_t* values, Half* scales,
              Half* minimums);
void unpack(float* out, const PackedWeight& weight);

}  // namespace cierzo
