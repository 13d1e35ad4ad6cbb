#include <cmath>

#include "dispatch.h"
#include "ops.h"

namespace cierzo {

namespace {

// 2^31: far above any model, low enough that no byte count overflows.
constexpr int64_t kMaxDim = int64_t(1) << 31;

std::string shape_of(const PackedWeight& w) {
    const std::string matrix = "[" + std::to_string(w.n_out) + ", " + std::to_string(w.n_in) + "]";
    return w.n_experts == 1 ? matrix : std::to_string(w.n_experts) + " x " + matrix;
}

void check_distinct(const char* op, const Tensor& out, const Tensor& x) {
    check(&out != &x, op, "out", "another tensor than the input", "the same");
}

void check_num_prompt_rows(const char* op, int64_t num_prompt_rows, const Tensor& x) {
    check(num_prompt_rows >= 0 && num_prompt_rows <= x.rows(), op, "num_prompt_rows",
          "between 0 and the " + std::to_string(x.rows()) + " rows of x",
          std::to_string(num_prompt_rows));
}

Norm norm_of(const char* op, const RMSNorm* norm, const Tensor& x) {
    if (norm == nullptr) return {};
    check(norm->weight.cols() == x.cols(), op, "norm", "as wide as x " + x.shape(),
          norm->weight.shape());
    return {norm->weight.data(), norm->eps};
}

}  // namespace

RMSNorm make_norm(const Tensor& weight, float eps) {
    check(weight.rows() == 1, "RMSNorm", "weight", "[1, dim]", weight.shape());
    check(eps >= 0.0f && std::isfinite(eps), "RMSNorm", "eps", "finite and >= 0",
          std::to_string(eps));
    return {weight, eps};
}

WeightFormat weight_format(const std::string& dtype, bool affine) {
    if (dtype == "int4") return affine ? WeightFormat::kInt4Affine : WeightFormat::kInt4;
    if (dtype == "int8") return affine ? WeightFormat::kInt8Affine : WeightFormat::kInt8;
    check(dtype == "bf16", "PackedWeight", "dtype", "'int4', 'int8' or 'bf16'", "'" + dtype + "'");
    check(!affine, "PackedWeight", "affine", "False for bf16", "True");
    return WeightFormat::kBf16;
}

const char* dtype_name(WeightFormat format) {
    switch (format) {
        case WeightFormat::kInt4:
        case WeightFormat::kInt4Affine:
            return "int4";
        case WeightFormat::kInt8:
        case WeightFormat::kInt8Affine:
            return "int8";
        case WeightFormat::kBf16:
            return "bf16";
    }
    return "";
}

bool is_affine_format(WeightFormat format) {
    return format == WeightFormat::kInt4Affine || format == WeightFormat::kInt8Affine;
}

PackedWeight packed_weight(const uint8_t* data, int64_t data_nbytes, const std::string& dtype,
                           bool affine, int64_t n_out, int64_t n_in, int64_t n_experts) {
    const PackedWeight w{data, weight_format(dtype, affine), n_out, n_in, n_experts};
    const auto check_dim = [](const char* name, int64_t n) {
        check(n >= 1 && n <= kMaxDim, "PackedWeight", name, "between 1 and 2^31",
              std::to_string(n));
    };
    check_dim("n_out", n_out);
    check_dim("n_in", n_in);
    check_dim("n_experts", n_experts);
    // In floating point first: the product of three hostile numbers may not fit 64 bits.
    const double exact = double(w.num_panels()) * double(w.panel_nbytes()) * double(n_experts);
    check(exact < 0x1p60 && data_nbytes == w.nbytes(), "PackedWeight", "data",
          exact < 0x1p60 ? std::to_string(w.nbytes()) + " bytes for " + dtype + " " + shape_of(w)
                         : "of a size below 2^60 bytes",
          std::to_string(data_nbytes) + " bytes");
    // Scales and bf16 weights are read as 16-bit numbers.
    check(reinterpret_cast<uintptr_t>(data) % 2 == 0, "PackedWeight", "data", "at an even address",
          "an odd one: pass its copy()");
    return w;
}

void matmul(Tensor& out, const Tensor& x, const PackedWeight& weight, bool accumulate,
            int64_t num_prompt_rows, const RMSNorm* norm) {
    check_distinct("matmul", out, x);
    check(weight.n_experts == 1, "matmul", "weight", "a single matrix", shape_of(weight));
    check(x.cols() == weight.n_in, "matmul", "x", "[T, n_in] for weight " + shape_of(weight),
          x.shape());
    check(out.cols() == weight.n_out, "matmul", "out", "[T, n_out] for weight " + shape_of(weight),
          out.shape());
    check_num_prompt_rows("matmul", num_prompt_rows, x);
    const Norm of_rows = norm_of("matmul", norm, x);
    if (accumulate)
        check(out.rows() == x.rows(), "matmul", "out (accumulate)",
              "as many rows as x " + x.shape(), out.shape());
    else
        out.resize(x.rows());
    kernels().matmul(
        {out.data(), x.data(), x.rows(), &weight, accumulate, num_prompt_rows, of_rows});
}

void matmul_swiglu(Tensor& out, const Tensor& x, const PackedWeight& gate_up,
                   int64_t num_prompt_rows) {
    check_distinct("matmul_swiglu", out, x);
    check(gate_up.n_experts == 1, "matmul_swiglu", "gate_up", "a single matrix", shape_of(gate_up));
    check(x.cols() == gate_up.n_in, "matmul_swiglu", "x",
          "[T, n_in] for gate_up " + shape_of(gate_up), x.shape());
    check(2 * round_up(out.cols(), kPanel) == gate_up.n_out, "matmul_swiglu", "gate_up",
          "[2 * hidden rounded up to 16, n_in] for out " + out.shape(), shape_of(gate_up));
    check_num_prompt_rows("matmul_swiglu", num_prompt_rows, x);
    out.resize(x.rows());
    kernels().matmul_swiglu(
        {out.data(), x.data(), x.rows(), out.cols(), &gate_up, num_prompt_rows});
}

void feed_forward(Tensor& x, const PackedWeight& gate_up, const PackedWeight& down,
                  int64_t num_prompt_rows, const RMSNorm* norm) {
    check(gate_up.n_experts == 1, "feed_forward", "gate_up", "a single matrix", shape_of(gate_up));
    check(down.n_experts == 1 && down.n_out == x.cols(), "feed_forward", "down",
          "[dim, hidden] for x " + x.shape(), shape_of(down));
    check(gate_up.n_in == x.cols() && gate_up.n_out == 2 * round_up(down.n_in, kPanel),
          "feed_forward", "gate_up",
          "[" + std::to_string(2 * round_up(down.n_in, kPanel)) + ", " + std::to_string(x.cols()) +
              "]",
          shape_of(gate_up));
    check_num_prompt_rows("feed_forward", num_prompt_rows, x);
    kernels().feed_forward({x.data(), x.rows(), x.cols(), &gate_up, &down, num_prompt_rows,
                            norm_of("feed_forward", norm, x)});
}

void moe(Tensor& x, const Tensor& h, const Tensor& router, const PackedWeight& gate_up,
         const PackedWeight& down, int64_t num_experts_per_tok, Tensor* expert_counts,
         int64_t num_prompt_rows) {
    const int64_t dim = x.cols();
    const int64_t num_experts = router.rows();
    check_distinct("moe", x, h);
    check(h.rows() == x.rows() && h.cols() == dim, "moe", "h", "shaped as x " + x.shape(),
          h.shape());
    check(router.cols() == dim, "moe", "router", "[num_experts, dim] for x " + x.shape(),
          router.shape());
    check(num_experts_per_tok >= 1 && num_experts_per_tok <= num_experts, "moe",
          "num_experts_per_tok", "between 1 and the router's " + std::to_string(num_experts),
          std::to_string(num_experts_per_tok));
    check(down.n_experts == num_experts && down.n_out == dim, "moe", "down",
          std::to_string(num_experts) + " x [" + std::to_string(dim) + ", hidden]", shape_of(down));
    check(gate_up.n_experts == num_experts && gate_up.n_in == dim &&
              gate_up.n_out == 2 * round_up(down.n_in, kPanel),
          "moe", "gate_up",
          std::to_string(num_experts) + " x [" + std::to_string(2 * round_up(down.n_in, kPanel)) +
              ", " + std::to_string(dim) + "]",
          shape_of(gate_up));
    check(expert_counts == nullptr ||
              (expert_counts->rows() == 1 && expert_counts->cols() == num_experts),
          "moe", "expert_counts", "[1, " + std::to_string(num_experts) + "]",
          expert_counts == nullptr ? "" : expert_counts->shape());
    check_num_prompt_rows("moe", num_prompt_rows, x);
    kernels().moe({x.data(), h.data(), x.rows(), dim, down.n_in, router.data(), &gate_up, &down,
                   num_experts_per_tok, expert_counts == nullptr ? nullptr : expert_counts->data(),
                   num_prompt_rows});
}

void gather_rows(Tensor& out, const Tensor& x, const int32_t* rows, int64_t num_rows) {
    check_distinct("gather_rows", out, x);
    check(out.cols() == x.cols(), "gather_rows", "out", "as wide as x " + x.shape(), out.shape());
    for (int64_t r = 0; r < num_rows; ++r)
        check(rows[r] >= 0 && rows[r] < x.rows(), "gather_rows", "rows",
              "ids in [0, " + std::to_string(x.rows()) + ")", std::to_string(rows[r]));
    out.resize(num_rows);
    kernels().gather_rows(out.data(), x.data(), x.cols(), rows, num_rows);
}

}  // namespace cierzo
