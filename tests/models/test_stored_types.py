"""Every stored type against `gguf`'s Python dequantisers."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType as BlockType
from gguf import quants

from cierzo.models.stored_types import STORED_TYPES, Groups, bf16_bits, bf16_floats
from tests.tiny_gguf import BLOCK_TYPES, K_QUANTS, stored_blocks

QUANTISED = [kind for kind in BLOCK_TYPES if kind.name.startswith("Q")]


def random_rows(kind: BlockType) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((5, 512), dtype=np.float32)
    raw = stored_blocks(rows, kind, rng)
    return raw.view(np.uint8).reshape(5, -1)


@pytest.mark.parametrize("kind", BLOCK_TYPES, ids=lambda kind: str(kind.name))
def test_float_rows_equal_the_dequantiser(kind: BlockType) -> None:
    raw = random_rows(kind)
    stored = STORED_TYPES[kind.name]
    assert raw.shape[1] == stored.row_nbytes(512)
    expected = quants.dequantize(raw, kind)
    np.testing.assert_allclose(stored.float_rows(raw), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: str(kind.name))
def test_groups_are_exact_or_round_only_their_scales(kind: BlockType) -> None:
    stored = STORED_TYPES[kind.name]
    raw = random_rows(kind)
    if stored.groups is None:
        assert kind in K_QUANTS and not stored.is_exact
        return
    groups = stored.group_rows(raw)
    assert (groups.minimums is not None) == stored.affine
    assert groups.bits == (4 if stored.dtype == "int4" else 8)
    expected = quants.dequantize(raw, kind)
    tolerance = 0.0 if stored.is_exact else 2e-3
    np.testing.assert_allclose(groups.dequantize(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_widening_keeps_every_weight(kind: str) -> None:
    groups = STORED_TYPES[kind].group_rows(random_rows(BlockType[kind]))
    for wider in (groups.as_int8(), groups.as_affine(), groups.as_int8().as_affine()):
        np.testing.assert_array_equal(wider.dequantize(), groups.dequantize())


def test_a_scale_too_large_for_an_affine_minimum_is_visible() -> None:
    scales = np.full((1, 1), 60000, np.float16)
    groups = Groups(np.zeros((1, 32), np.uint8), scales, None, 4).as_affine()
    assert groups.minimums is not None and np.isinf(groups.minimums).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("filling", [0x7D, 0x7B, 0xFF], ids=["signalling", "huge", "quiet"])
@pytest.mark.parametrize("name", STORED_TYPES)
def test_damage_is_read_in_silence(name: str, filling: int) -> None:
    """The packer refuses what is not finite; a warning before that would only hide it."""
    stored = STORED_TYPES[name]
    raw = np.full((2, stored.row_nbytes(512)), filling, np.uint8)
    stored.float_rows(raw)
    if stored.groups is not None:
        stored.group_rows(raw).as_affine()


def test_bf16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3.14159, np.inf, 0.0], np.float32)
    expected = np.array([1.0, 1.0, 1.015625, -3.140625, np.inf, 0.0], np.float32)
    np.testing.assert_array_equal(bf16_floats(bf16_bits(values)), expected)
    assert np.isnan(bf16_floats(bf16_bits(np.array([np.nan], np.float32))))[0]


def test_fp8_values() -> None:
    table = STORED_TYPES["F8_E4M3"].float_rows(np.arange(256, dtype=np.uint8)[None])[0]
    assert table[0x38] == 1.0 and table[0xB8] == -1.0
    assert table[0x7E] == 448.0 and table[0x01] == 2.0**-9
    assert np.isnan(table[0x7F]) and np.isfinite(np.delete(table, [0x7F, 0xFF])).all()
