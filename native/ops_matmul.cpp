#include "dispatch.h"
#include "ops.h"

namespace cierzo {

void gather_rows(Tensor& out, const Tensor& x, const int32_t* rows, int64_t num_rows) {
    check(&out != &x, "gather_rows", "out", "another tensor than x", "the same");
    check(out.cols() == x.cols(), "gather_rows", "out", "as wide as x " + x.shape(), out.shape());
    for (int64_t r = 0; r < num_rows; ++r)
        check(rows[r] >= 0 && rows[r] < x.rows(), "gather_rows", "rows",
              "ids in [0, " + std::to_string(x.rows()) + ")", std::to_string(rows[r]));
    out.resize(num_rows);
    kernels().gather_rows(out.data(), x.data(), x.cols(), rows, num_rows);
}

}  // namespace cierzo
