"""Prompt rows: bf16 products on dequantised weights, whatever they share a product with."""

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
    moe,
    pack_bf16,
    reference,
    set_isa,
    set_num_threads,
)
from tests.kernels.test_matmul import awkward_rows
from tests.kernels.test_moe import SparseLayer, sparse_layer
from tests.kernels.weights import FORMATS, SHAPES, normal, random_weight

Floats = NDArray[np.float32]
QUANTISED = FORMATS[:4]


def product(x: Floats, weight: PackedWeight, num_prompt_rows: int) -> Floats:
    out = Tensor(1, weight.n_out)
    matmul(out, Tensor.from_numpy(x), weight, num_prompt_rows=num_prompt_rows)
    return out.numpy().copy()


def swiglu(x: Floats, gate_up: PackedWeight, hidden: int, num_prompt_rows: int) -> Floats:
    out = Tensor(1, hidden)
    matmul_swiglu(out, Tensor.from_numpy(x), gate_up, num_prompt_rows)
    return out.numpy().copy()


def sparse(layer: SparseLayer, x: Floats, h: Floats, num_prompt_rows: int) -> Floats:
    out = Tensor.from_numpy(x)
    moe(
        out,
        Tensor.from_numpy(h),
        Tensor.from_numpy(layer.router),
        layer.gate_up,
        layer.down,
        2,
        num_prompt_rows=num_prompt_rows,
    )
    return out.numpy().copy()


@pytest.mark.parametrize(("dtype", "affine"), FORMATS)
@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
def test_matches_its_twin(
    each_isa: str, dtype: WeightDtype, affine: bool, n_out: int, n_in: int
) -> None:
    weight = random_weight(dtype, affine, n_out, n_in)
    x = normal(1, 21, n_in)
    tolerance = 1e-6 * np.abs(x).mean() * np.abs(weight.numbers).mean() * n_in + 1e-6
    for prompt in (0, 1, 9, 21):
        expected = reference.matmul(x, weight.numbers, dtype, prompt)
        np.testing.assert_allclose(
            product(x, weight.packed, prompt), expected, rtol=2e-6, atol=float(tolerance)
        )


@pytest.mark.parametrize(("dtype", "affine"), QUANTISED)
def test_weights_are_rounded_to_bf16_and_nothing_else(dtype: WeightDtype, affine: bool) -> None:
    """To the bit the product with the same weights stored as bf16, on every instruction set."""
    weight = random_weight(dtype, affine, 80, 1100)
    stored = PackedWeight(
        pack_bf16(reference.bf16_weights(weight.numbers)), "bf16", False, 80, 1100
    )
    x = awkward_rows(70, 1100)
    for name in available_isas():
        set_isa(name)
        np.testing.assert_array_equal(
            product(x, weight.packed, 70).view(np.uint32), product(x, stored, 0).view(np.uint32)
        )


@pytest.mark.parametrize(("dtype", "affine"), QUANTISED)
@pytest.mark.parametrize(("n_out", "n_in"), [(33, 72), (80, 1100)])
def test_same_bits_on_every_instruction_set_thread_count_and_batch(
    dtype: WeightDtype, affine: bool, n_out: int, n_in: int
) -> None:
    weight = random_weight(dtype, affine, n_out, n_in)
    x = awkward_rows(70, n_in)
    set_isa("portable")
    as_prompt, as_completion = product(x, weight.packed, 70), product(x, weight.packed, 0)
    assert (as_prompt != as_completion).any()
    for name in available_isas():
        set_isa(name)
        for rows in (70,) if name == "portable" else (*range(1, 20), 31, 32, 33, 48, 65, 70):
            set_num_threads(1 + rows % 3)
            for prompt in (rows, rows // 2, 1):
                expected = np.concatenate([as_prompt[:prompt], as_completion[prompt:rows]])
                got = product(x[:rows], weight.packed, prompt)
                np.testing.assert_array_equal(
                    got.view(np.uint32),
                    expected.view(np.uint32),
                    err_msg=f"{name}, {prompt} of {rows} rows",
                )


def test_more_rows_than_one_pass_takes(each_isa: str) -> None:
    weight = random_weight("int4", True, 24, 4096)
    x = np.repeat(normal(2, 300, 4096), 2, axis=0)
    got = product(x, weight.packed, 600)
    np.testing.assert_array_equal(got[::2], got[1::2])
    np.testing.assert_array_equal(got[-1], product(x[-1:], weight.packed, 1)[0])


def test_accumulate_adds_to_what_is_there(each_isa: str) -> None:
    weight = random_weight("int4", False, 17, 64)
    x, before = normal(3, 9, 64), normal(4, 9, 17)
    out = Tensor.from_numpy(before)
    matmul(out, Tensor.from_numpy(x), weight.packed, accumulate=True, num_prompt_rows=5)
    np.testing.assert_array_equal(out.numpy(), before + product(x, weight.packed, 5))


@pytest.mark.parametrize(("dtype", "affine"), QUANTISED)
@pytest.mark.parametrize("hidden", [1, 16, 24, 100])
def test_swiglu_of_a_mixed_step(dtype: WeightDtype, affine: bool, hidden: int) -> None:
    gate_up = random_weight(dtype, affine, 2 * -(-hidden // 16) * 16, 48)
    x = normal(7, 40, 48)
    set_isa("portable")
    whole = swiglu(x, gate_up.packed, hidden, 27)
    expected = reference.matmul_swiglu(x, gate_up.numbers, hidden, dtype, 27)
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-3)
    for name in available_isas():
        set_isa(name)
        np.testing.assert_array_equal(swiglu(x, gate_up.packed, hidden, 27), whole, err_msg=name)
        np.testing.assert_array_equal(swiglu(x[3:4], gate_up.packed, hidden, 1), whole[3:4])
        np.testing.assert_array_equal(swiglu(x[30:31], gate_up.packed, hidden, 0), whole[30:31])


@pytest.mark.parametrize("dtype", ["int4", "int8", "bf16"])
@pytest.mark.parametrize("prompt", [0, 1, 23, 40])
def test_sparse_layer_matches_its_twin(each_isa: str, dtype: WeightDtype, prompt: int) -> None:
    layer = sparse_layer(dtype, 4, dim=40, hidden=24)
    x, h = normal(1, 40, 40), normal(2, 40, 40)
    got = sparse(layer, x, h, prompt)
    expected = reference.moe(
        x, h, layer.router, layer.gate_up_numbers, layer.down_numbers, 2, dtype, prompt
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.02 * float(np.abs(expected).max()))
    assert np.abs(got - expected).mean() < 1e-3


@pytest.mark.parametrize("dtype", ["int4", "int8", "bf16"])
def test_sparse_layer_same_bits_in_any_company(dtype: WeightDtype) -> None:
    layer = sparse_layer(dtype, 4, dim=72, hidden=40)
    x, h = normal(1, 50, 72), normal(2, 50, 72)
    set_isa("portable")
    as_prompt, as_completion = sparse(layer, x, h, 50), sparse(layer, x, h, 0)
    for name in available_isas():
        set_isa(name)
        for threads in (1, 2, 3):
            set_num_threads(threads)
            for begin, end in ((0, 50), (0, 1), (7, 8), (10, 33)):
                for prompt in {0, 1, (end - begin) // 2, end - begin}:
                    rows, split = slice(begin, end), begin + prompt
                    expected = np.concatenate([as_prompt[begin:split], as_completion[split:end]])
                    got = sparse(layer, x[rows], h[rows], prompt)
                    np.testing.assert_array_equal(got, expected, err_msg=f"{name}, {prompt}")


@pytest.mark.parametrize("prompt", [-1, 5])
def test_a_count_out_of_range_is_refused(prompt: int) -> None:
    weight = random_weight("int4", False, 17, 40).packed
    with pytest.raises(
        ValueError,
        match=f"matmul: num_prompt_rows must be between 0 and the 4 rows.*; got {prompt}",
    ):
        product(normal(1, 4, 40), weight, prompt)
    with pytest.raises(ValueError, match="matmul_swiglu: num_prompt_rows"):
        swiglu(normal(1, 4, 40), random_weight("int8", False, 32, 40).packed, 16, prompt)
    layer = sparse_layer("int8", 3, dim=32, hidden=16)
    with pytest.raises(ValueError, match="moe: num_prompt_rows"):
        sparse(layer, normal(1, 4, 32), normal(2, 4, 32), prompt)
