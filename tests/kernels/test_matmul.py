"""matmul and matmul_swiglu: equal to their twins, and bit-equal whatever computes them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cierzo.config import WeightDtype
from cierzo.kernels import (
    PackedWeight,
    Tensor,
    available_isas,
    matmul,
    matmul_swiglu,
    pack_bf16,
    reference,
    set_isa,
    set_num_threads,
    unpack,
)
from tests.kernels.weights import FORMATS, SHAPES, normal, random_weight


def product(x: NDArray[np.float32], weight: PackedWeight) -> NDArray[np.float32]:
    out = Tensor(1, weight.n_out)
    matmul(out, Tensor.from_numpy(x), weight)
    return out.numpy().copy()


def awkward_rows(rows: int, n_in: int) -> NDArray[np.float32]:
    """Rows of all magnitudes: zero, denormal, huge next to tiny."""
    x = normal(7, rows, n_in)
    x[1::7] = 0
    x[2::7] *= np.float32(1e-38)
    x[3::7, ::2] *= np.float32(1e-6)
    x[4::7] *= np.float32(1e6)
    x[5::7] *= np.float32(1e-41)
    return x


@pytest.mark.parametrize(("dtype", "affine"), FORMATS)
@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
def test_matches_its_twin(
    each_isa: str, dtype: WeightDtype, affine: bool, n_out: int, n_in: int
) -> None:
    weight = random_weight(dtype, affine, n_out, n_in)
    x = normal(1, 21, n_in)
    expected = reference.matmul(x, weight.numbers, dtype)
    # float32 sums of n_in terms: the error grows with the terms, not with the (cancelling) sum.
    tolerance = 1e-6 * np.abs(x).mean() * np.abs(weight.numbers).mean() * n_in + 1e-6
    for rows in (1, 2, 21):
        np.testing.assert_allclose(
            product(x[:rows], weight.packed), expected[:rows], rtol=2e-6, atol=float(tolerance)
        )


@pytest.mark.parametrize(("dtype", "affine"), FORMATS)
@pytest.mark.parametrize(("n_out", "n_in"), [(33, 72), (330, 72), (80, 1100)])
def test_same_bits_on_every_instruction_set_thread_count_and_batch(
    dtype: WeightDtype, affine: bool, n_out: int, n_in: int
) -> None:
    weight = random_weight(dtype, affine, n_out, n_in)
    x = awkward_rows(70, n_in)
    set_isa("portable")
    expected = product(x, weight.packed).view(np.uint32)
    assert np.isfinite(expected.view(np.float32)).all()
    for name in available_isas():
        set_isa(name)
        for rows in [70] if name == "portable" else range(1, 71):
            set_num_threads(1 + rows % 3)
            got = product(x[:rows], weight.packed).view(np.uint32)
            np.testing.assert_array_equal(got, expected[:rows], err_msg=f"{name}, {rows} rows")


@pytest.mark.parametrize(("dtype", "affine"), FORMATS)
def test_a_row_does_not_see_its_neighbours(each_isa: str, dtype: WeightDtype, affine: bool) -> None:
    weight = random_weight(dtype, affine, 40, 96)
    x = awkward_rows(40, 96)
    whole = product(x, weight.packed)
    for row in range(0, 40, 3):
        np.testing.assert_array_equal(product(x[row : row + 1], weight.packed)[0], whole[row])


def test_more_rows_than_one_pass_takes(each_isa: str) -> None:
    weight = random_weight("int4", False, 16, 4096)
    x = np.repeat(normal(2, 300, 4096), 2, axis=0)
    got = product(x, weight.packed)
    np.testing.assert_array_equal(got[::2], got[1::2])
    np.testing.assert_array_equal(got[-1], product(x[-1:], weight.packed)[0])


def test_accumulate_adds_to_what_is_there(each_isa: str) -> None:
    for dtype, affine in FORMATS:
        weight = random_weight(dtype, affine, 17, 64)
        x, before = normal(3, 5, 64), normal(4, 5, 17)
        out = Tensor.from_numpy(before)
        matmul(out, Tensor.from_numpy(x), weight.packed, accumulate=True)
        np.testing.assert_array_equal(out.numpy(), before + product(x, weight.packed))


@pytest.mark.parametrize("rows", [0, 1, 19])
@pytest.mark.parametrize("hidden", [1, 16, 24, 100])
def test_swiglu_matches_its_twin(each_isa: str, rows: int, hidden: int) -> None:
    gate, up = normal(5, hidden, 48), normal(6, hidden, 48)
    data = pack_bf16(reference.interleave_gate_up(gate, up))
    n_out = 2 * -(-hidden // 16) * 16
    weight = PackedWeight(data, "bf16", False, n_out, 48)
    numbers = unpack(data, "bf16", False, n_out, 48)
    x = normal(7, rows, 48)
    out = Tensor(3, hidden)
    matmul_swiglu(out, Tensor.from_numpy(x), weight)
    expected = reference.matmul_swiglu(x, numbers, hidden, "bf16")
    # Rows multiplied in bf16 have the short silu.
    np.testing.assert_allclose(out.numpy(), expected, rtol=2e-4, atol=1e-4)


def test_swiglu_of_few_rows_is_that_of_many(each_isa: str) -> None:
    hidden, n_in = 200, 96  # 13 pairs of panels: several in each of a thread's runs
    weight = random_weight("int4", False, 2 * 208, n_in)
    x = normal(7, 20, n_in)

    def swiglu(rows: int) -> NDArray[np.float32]:
        out = Tensor(rows, hidden)
        matmul_swiglu(out, Tensor.from_numpy(x[:rows]), weight.packed)
        return out.numpy()

    expected = swiglu(20)
    for rows in range(1, 9):
        set_num_threads(1 + rows % 2)
        np.testing.assert_array_equal(swiglu(rows), expected[:rows])


def test_no_rows(each_isa: str) -> None:
    weight = random_weight("int4", True, 17, 40)
    assert product(np.zeros((0, 40), np.float32), weight.packed).shape == (0, 17)


def test_extreme_gates_stay_finite(each_isa: str) -> None:
    gate_up = reference.interleave_gate_up(
        np.full((16, 32), 1.0, np.float32), np.full((16, 32), 1.0, np.float32)
    )
    weight = PackedWeight(pack_bf16(gate_up), "bf16", False, 32, 32)
    out = Tensor(1, 16)
    for value in (-8192.0, 8192.0):
        matmul_swiglu(out, Tensor.from_numpy(np.full((1, 32), value, np.float32)), weight)
        assert np.isfinite(out.numpy()).all()
        assert out.numpy()[0, 0] == pytest.approx(0 if value < 0 else (32 * value) ** 2, abs=1e-20)


@pytest.mark.parametrize(
    ("out_shape", "x_shape", "accumulate", "message"),
    [
        (
            (1, 17),
            (2, 41),
            False,
            r"matmul: x must be \[T, n_in\] for weight \[17, 40\]; got \[2, 41\]",
        ),
        (
            (1, 18),
            (2, 40),
            False,
            r"matmul: out must be \[T, n_out\] for weight \[17, 40\]; got \[1, 18\]",
        ),
        ((1, 17), (2, 40), True, r"matmul: out \(accumulate\) must be as many rows as x \[2, 40\]"),
    ],
)
def test_wrong_shapes_are_refused(
    out_shape: tuple[int, int], x_shape: tuple[int, int], accumulate: bool, message: str
) -> None:
    weight = random_weight("int4", False, 17, 40)
    with pytest.raises(ValueError, match=message):
        matmul(Tensor(*out_shape), Tensor(*x_shape), weight.packed, accumulate)


def test_out_may_not_be_the_input() -> None:
    weight = random_weight("int8", False, 32, 32)
    x = Tensor(1, 32)
    with pytest.raises(ValueError, match="matmul: out must be another tensor"):
        matmul(x, x, weight.packed)


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="set_isa: this machine has portable.*; got 'sse9'"):
        set_isa("sse9")
