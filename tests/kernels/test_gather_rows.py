"""gather_rows: the rows asked for, in the order asked, or a ValueError."""

import numpy as np
import pytest

from cierzo.kernels import Tensor, gather_rows


@pytest.mark.parametrize("rows", [[], [0], [3, 3, 1], [4, 3, 2, 1, 0]])
def test_gathers_in_order(rows: list[int]) -> None:
    a = np.arange(35, dtype=np.float32).reshape(5, 7)
    out = Tensor(1, 7)
    gather_rows(out, Tensor.from_numpy(a), np.array(rows, dtype=np.int32))
    np.testing.assert_array_equal(out.numpy(), a[rows])


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_out_of_range_is_refused(row: int) -> None:
    with pytest.raises(ValueError, match=rf"gather_rows: rows must be ids in \[0, 5\); got {row}"):
        gather_rows(Tensor(1, 7), Tensor(5, 7), np.array([row], dtype=np.int32))


def test_a_different_width_is_refused() -> None:
    with pytest.raises(ValueError, match="gather_rows: out must be as wide as x"):
        gather_rows(Tensor(1, 8), Tensor(5, 7), np.array([0], dtype=np.int32))
