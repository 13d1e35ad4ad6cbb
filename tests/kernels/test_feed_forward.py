"""feed_forward, and products that normalise their rows: to the bit what their parts give."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cierzo.config import WeightDtype
from cierzo.kernels import (
    RMSNorm,
    Tensor,
    feed_forward,
    matmul,
    matmul_swiglu,
    rms_norm,
    set_num_threads,
)
from tests.kernels.weights import FORMATS, normal, random_weight

Rows = NDArray[np.float32]
EPS = 1e-5


def normed(x: Rows, weight: Rows) -> Tensor:
    out = Tensor(0, x.shape[1])
    rms_norm(out, Tensor.from_numpy(x), Tensor.from_numpy(weight), EPS)
    return out


@pytest.mark.parametrize(("dtype", "affine"), FORMATS)
@pytest.mark.parametrize(("rows", "num_prompt_rows"), [(1, 0), (1, 1), (5, 2), (33, 33), (40, 17)])
def test_feed_forward_is_its_parts(
    each_isa: str, dtype: WeightDtype, affine: bool, rows: int, num_prompt_rows: int
) -> None:
    dim, hidden = 96, 80
    gate_up = random_weight(dtype, affine, 2 * hidden, dim, 1).packed
    down = random_weight(dtype, affine, dim, hidden, 2).packed
    x, norm = normal(3, rows, dim), normal(4, 1, dim)

    expected, activated = Tensor.from_numpy(x), Tensor(0, hidden)
    matmul_swiglu(activated, normed(x, norm), gate_up, num_prompt_rows)
    matmul(expected, activated, down, True, num_prompt_rows)

    for threads in (1, 2, 3):
        set_num_threads(threads)
        out = Tensor.from_numpy(x)
        of_rows = RMSNorm(Tensor.from_numpy(norm), EPS)
        feed_forward(out, gate_up, down, num_prompt_rows, norm=of_rows)
        np.testing.assert_array_equal(out.numpy(), expected.numpy())


@pytest.mark.parametrize(("rows", "num_prompt_rows"), [(1, 0), (7, 3), (40, 40)])
def test_matmul_normalises_what_it_reads(each_isa: str, rows: int, num_prompt_rows: int) -> None:
    weight = random_weight("int4", True, 2048, 70).packed
    x, norm = normal(1, rows, 70), normal(2, 1, 70)
    expected, out = Tensor(0, 2048), Tensor(0, 2048)
    matmul(expected, normed(x, norm), weight, num_prompt_rows=num_prompt_rows)
    for threads in (1, 2, 3):
        set_num_threads(threads)
        of_rows = RMSNorm(Tensor.from_numpy(norm), EPS)
        matmul(out, Tensor.from_numpy(x), weight, False, num_prompt_rows, of_rows)
        np.testing.assert_array_equal(out.numpy(), expected.numpy())


def test_feed_forward_without_rows_or_norm() -> None:
    gate_up = random_weight("int8", False, 96, 64).packed
    down = random_weight("int8", False, 64, 48).packed
    feed_forward(Tensor(0, 64), gate_up, down)
    x, activated = normal(1, 3, 64), Tensor(0, 48)
    expected, out = Tensor.from_numpy(x), Tensor.from_numpy(x)
    matmul_swiglu(activated, Tensor.from_numpy(x), gate_up)
    matmul(expected, activated, down, accumulate=True)
    feed_forward(out, gate_up, down)
    np.testing.assert_array_equal(out.numpy(), expected.numpy())


def test_shapes_are_checked() -> None:
    gate_up = random_weight("int8", False, 96, 64).packed
    down = random_weight("int8", False, 64, 48).packed
    with pytest.raises(ValueError, match=r"feed_forward: down must be \[dim, hidden\] for x"):
        feed_forward(Tensor(2, 96), gate_up, down)
    with pytest.raises(ValueError, match=r"feed_forward: gate_up must be \[96, 64\]; got \[64, 48"):
        feed_forward(Tensor(2, 64), down, down)
    with pytest.raises(ValueError, match="feed_forward: norm must be as wide as x"):
        feed_forward(Tensor(2, 64), gate_up, down, norm=RMSNorm(Tensor(1, 32), EPS))
    with pytest.raises(ValueError, match="feed_forward: num_prompt_rows must be"):
        feed_forward(Tensor(2, 64), gate_up, down, 3)
    with pytest.raises(ValueError, match="matmul: norm must be as wide as x"):
        matmul(Tensor(0, 64), Tensor(2, 48), down, norm=RMSNorm(Tensor(1, 32), EPS))
    with pytest.raises(ValueError, match=r"RMSNorm: weight must be \[1, dim\]"):
        RMSNorm(Tensor(2, 8), EPS)
    with pytest.raises(ValueError, match="RMSNorm: eps must be finite and >= 0"):
        RMSNorm(Tensor(1, 8), -1.0)
