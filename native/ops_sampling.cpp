#include <cmath>

#include "dispatch.h"
#include "ops.h"

namespace cierzo {

namespace {

void check_row(const char* op, const Tensor& logits, int64_t row) {
    check(row >= 0 && row < logits.rows(), op, "row",
          "in [0, " + std::to_string(logits.rows()) + ")", std::to_string(row));
}

template <class T, class Rule>
void check_each(const char* argument, std::span<const T> values, int64_t rows,
                const std::string& expected, Rule rule) {
    check(int64_t(values.size()) == rows, "sample", argument,
          "one value per row of logits, " + std::to_string(rows), std::to_string(values.size()));
    for (const T value : values)
        check(rule(value), "sample", argument, expected, std::to_string(value));
}

}  // namespace

void argmax(int32_t* ids, const Tensor& logits) {
    kernels().argmax(ids, logits.data(), logits.rows(), logits.cols());
}

void logsumexp(float* out, const Tensor& logits) {
    kernels().logsumexp(out, logits.data(), logits.rows(), logits.cols());
}

void top_k(int32_t* ids, float* values, const Tensor& logits, int64_t row, int64_t k) {
    check_row("top_k", logits, row);
    check(k >= 1 && k <= logits.cols(), "top_k", "k",
          "in [1, " + std::to_string(logits.cols()) + "]", std::to_string(k));
    kernels().top_k(ids, values, logits.row(row), logits.cols(), k);
}

void sample(int32_t* ids, const Tensor& logits, const SamplingRows& rows) {
    const int64_t n = logits.rows();
    check_each("temperature", rows.temperature, n, "finite and >= 0",
               [](float t) { return std::isfinite(t) && t >= 0.0f; });
    check_each("top_k", rows.top_k, n, ">= 0 (0 = off)", [](int32_t k) { return k >= 0; });
    check_each("top_p", rows.top_p, n, "in (0, 1]", [](float p) { return p > 0.0f && p <= 1.0f; });
    check_each("uniform", rows.uniform, n, "in [0, 1)",
               [](double u) { return u >= 0.0 && u < 1.0; });
    kernels().sample({ids, logits.data(), n, logits.cols(), rows.temperature.data(),
                      rows.top_k.data(), rows.top_p.data(), rows.uniform.data()});
}

void apply_mask(Tensor& logits, int64_t row, std::span<const uint32_t> mask) {
    check_row("apply_mask", logits, row);
    const int64_t words = (logits.cols() + 31) / 32;
    check(int64_t(mask.size()) == words, "apply_mask", "mask", std::to_string(words) + " words",
          std::to_string(mask.size()));
    kernels().apply_mask(logits.row(row), mask.data(), logits.cols());
}

}  // namespace cierzo
