"""Packing: the documented tile order, exact there and back; quantising: close, and never inf."""

from __future__ import annotations

import numpy as np
import pytest

from cierzo.config import WeightDtype
from cierzo.kernels import (
    PackedWeight,
    pack_bf16,
    pack_quantized,
    packed_nbytes,
    quantize,
    reference,
    unpack,
)
from tests.kernels.weights import FORMATS, SHAPES, normal, packed_bytes

TILE_NBYTES = {
    ("int4", False): 288,
    ("int4", True): 320,
    ("int8", False): 544,
    ("int8", True): 576,
    ("bf16", False): 1024,
}


@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("affine", [False, True])
def test_quantised_tile_order_is_the_documented_one(
    n_out: int, n_in: int, bits: int, affine: bool
) -> None:
    rng = np.random.default_rng(0)
    groups = -(-n_in // 32)
    values = rng.integers(0, 2**bits, (n_out, n_in)).astype(np.uint8)
    scales = rng.standard_normal((n_out, groups)).astype(np.float16)
    minimums = rng.standard_normal((n_out, groups)).astype(np.float16) if affine else None
    data = pack_quantized(values, scales, minimums, bits)
    np.testing.assert_array_equal(data, reference.pack_quantized(values, scales, minimums, bits))
    dtype: WeightDtype = "int4" if bits == 4 else "int8"
    np.testing.assert_array_equal(
        unpack(data, dtype, affine, n_out, n_in),
        reference.dequantize(values, scales, minimums, bits),
    )


@pytest.mark.parametrize(("n_out", "n_in"), SHAPES)
def test_bf16_tile_order_is_the_documented_one(n_out: int, n_in: int) -> None:
    w = normal(0, n_out, n_in)
    data = pack_bf16(w)
    np.testing.assert_array_equal(data, reference.pack_bf16(w))
    np.testing.assert_array_equal(
        unpack(data, "bf16", False, n_out, n_in), reference.round_to_bf16(w)
    )


@pytest.mark.parametrize(("dtype", "affine"), FORMATS)
def test_packed_nbytes(dtype: WeightDtype, affine: bool) -> None:
    tile = TILE_NBYTES[dtype, affine]
    assert packed_nbytes(dtype, affine, 1, 1) == tile
    assert packed_nbytes(dtype, affine, 33, 65) == 3 * 3 * tile


def test_every_half_scale_survives() -> None:
    """All 65536 halves but NaN go through unpack's conversion exactly, subnormals included."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    scales = halves[np.isfinite(halves)].reshape(-1, 8)
    values = np.full((len(scales), 256), 9, np.uint8)
    weights = unpack(pack_quantized(values, scales, None, 4), "int4", False, len(scales), 256)
    np.testing.assert_array_equal(weights[:, ::32], scales.astype(np.float32))


@pytest.mark.parametrize("n_in", [1, 31, 32, 100])
def test_quantize_int8_is_within_half_a_step(each_isa: str, n_in: int) -> None:
    w = normal(1, 9, n_in)
    values, scales, minimums = quantize(w, 8)
    assert minimums is None
    error = np.abs(reference.dequantize(values, scales, None, 8) - w)
    step = np.repeat(scales.astype(np.float32), 32, axis=1)[:, :n_in]
    assert (error <= 0.51 * step + 127 * step * 2**-11).all()


@pytest.mark.parametrize("n_in", [1, 31, 32, 100])
def test_quantize_int4_beats_plain_rounding(each_isa: str, n_in: int) -> None:
    w = normal(2, 64, n_in)
    values, scales, minimums = quantize(w, 4)
    assert minimums is not None and values.max() <= 15
    error = ((reference.dequantize(values, scales, minimums, 4) - w) ** 2).sum()
    plain = 0.0
    for first in range(0, n_in, 32):
        group = w[:, first : first + 32]
        low = group.min(axis=1, keepdims=True)
        step = np.maximum((group.max(axis=1, keepdims=True) - low) / 15, 1e-12)
        plain += float(((np.rint((group - low) / step) * step + low - group) ** 2).sum())
    assert error <= plain + 1e-4 * n_in


@pytest.mark.parametrize("bits", [4, 8])
def test_quantize_gives_the_same_bytes_on_every_instruction_set(each_isa: str, bits: int) -> None:
    w = normal(3, 8, 90)
    mine = quantize(w, bits)
    from cierzo.kernels import set_isa

    set_isa("portable")
    for a, b in zip(mine, quantize(w, bits), strict=True):
        if a is not None and b is not None:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [0.0, 1e-9, 1e-30, 0.5, -3.0, 1e30])
def test_quantize_constant_and_extreme_groups_stay_finite(bits: int, value: float) -> None:
    w = np.full((2, 64), value, np.float32)
    values, scales, minimums = quantize(w, bits)
    weights = reference.dequantize(values, scales, minimums, bits)
    assert np.isfinite(weights).all()
    if 1e-3 < abs(value) < 1e3:
        np.testing.assert_allclose(weights, w, rtol=1e-3)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    w = normal(4, 3, 32)
    w[2, 5] = bad
    with pytest.raises(ValueError, match=r"quantize: w must be finite; got -?(inf|nan) at row 2"):
        quantize(w, 4)


def test_wrong_arguments_are_refused() -> None:
    values, scales = np.zeros((4, 64), np.uint8), np.zeros((4, 2), np.float16)
    with pytest.raises(ValueError, match=r"scales must be \[4, 2\]; got \[4, 1\]"):
        pack_quantized(values, np.zeros((4, 1), np.float16), None, 4)
    with pytest.raises(ValueError, match="values must be below 16 for 4 bits; got 16"):
        pack_quantized(np.full((4, 64), 16, np.uint8), scales, None, 4)
    with pytest.raises(ValueError, match="bits must be 4 or 8; got 5"):
        pack_quantized(values, scales, None, 5)
    with pytest.raises(ValueError, match="affine must be False for bf16"):
        packed_nbytes("bf16", True, 4, 4)
    with pytest.raises(ValueError, match="dtype must be 'int4', 'int8' or 'bf16'; got 'fp8'"):
        packed_nbytes("fp8", False, 4, 4)


def test_packed_weight_checks_its_bytes() -> None:
    data = packed_bytes("int4", False, 17, 40, 0)
    weight = PackedWeight(data, "int4", False, 17, 40)
    assert (weight.n_out, weight.n_in, weight.n_experts, weight.nbytes) == (17, 40, 1, data.nbytes)
    assert (weight.dtype, weight.affine) == ("int4", False)
    with pytest.raises(ValueError, match=r"data must be 1152 bytes for int4 \[17, 40\]; got 1151"):
        PackedWeight(data[:-1], "int4", False, 17, 40)
    with pytest.raises(ValueError, match="n_out must be between 1 and"):
        PackedWeight(data, "int4", False, 0, 40)
    with pytest.raises(ValueError, match="data must be of a size below"):
        PackedWeight(data, "int8", False, 2**31, 2**31, 2**31)


def test_packed_weight_at_an_odd_address_is_refused() -> None:
    data = packed_bytes("int4", False, 16, 32, 0)
    shifted = np.zeros(len(data) + 1, np.uint8)[1:]
    with pytest.raises(ValueError, match="data must be at an even address"):
        PackedWeight(shifted, "int4", False, 16, 32)


def test_packed_weight_keeps_its_bytes_alive() -> None:
    weight = PackedWeight(packed_bytes("int4", False, 512, 512, 0), "int4", False, 512, 512)
    filler = [np.full(packed_nbytes("int4", False, 512, 512), 255, np.uint8) for _ in range(4)]
    assert weight.nbytes == filler[0].nbytes
