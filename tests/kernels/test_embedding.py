"""embed: rows of the dequantised weight, in all five formats."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cierzo import kernels
from cierzo.kernels import (
    ForwardInput,
    PackedWeight,
    Tensor,
    embed,
    pack_bf16,
    pack_quantized,
    unpack,
)

VOCAB_SIZE = 37  # not a whole number of panels


def step_of(token_ids: list[int]) -> ForwardInput:
    t = len(token_ids)
    return ForwardInput(
        np.array(token_ids, np.int32),
        np.arange(t, dtype=np.int32),
        np.arange(t, dtype=np.int32),
        np.array([0, t], np.int32),
        np.array([t], np.int32),
        np.zeros((1, 3), np.int32),
        np.ones((t, 2), np.float32),
        np.zeros((t, 2), np.float32),
        np.ones(t, np.float32),
    )


def pack(dtype: str, affine: bool, dim: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(dim)
    if dtype == "bf16":
        return pack_bf16(rng.standard_normal((VOCAB_SIZE, dim), np.float32))
    bits = int(dtype[3:])
    values = rng.integers(0, 1 << bits, (VOCAB_SIZE, dim), np.uint8)
    scales = rng.standard_normal((VOCAB_SIZE, dim // 32)).astype(np.float16)
    minimums = rng.standard_normal(scales.shape).astype(np.float16) if affine else None
    return pack_quantized(values, scales, minimums, bits)


@pytest.mark.parametrize(
    ("dtype", "affine"),
    [("int4", False), ("int4", True), ("int8", False), ("int8", True), ("bf16", False)],
)
@pytest.mark.parametrize("dim", [32, 576])
@pytest.mark.parametrize("token_ids", [[], [36], [0, 15, 16, 31, 32, 5, 5]])
def test_is_the_row_of_the_unpacked_weight(
    dtype: str, affine: bool, dim: int, token_ids: list[int]
) -> None:
    data = pack(dtype, affine, dim)
    weight = PackedWeight(data, dtype, affine, VOCAB_SIZE, dim)
    want = unpack(data, dtype, affine, VOCAB_SIZE, dim)[token_ids]
    for isa in kernels.available_isas():
        kernels.set_isa(isa)
        out = Tensor(1, dim)
        embed(out, step_of(token_ids), weight)
        np.testing.assert_array_equal(out.numpy(), want)


def test_mistakes_are_refused() -> None:
    weight = PackedWeight(pack("int4", False, 64), "int4", False, VOCAB_SIZE, 64)
    with pytest.raises(ValueError, match="embed: token_ids must be below 37; got 37"):
        embed(Tensor(0, 64), step_of([1, 37]), weight)
    with pytest.raises(ValueError, match="embed: out must be 64 wide, as the weight"):
        embed(Tensor(0, 32), step_of([1]), weight)
