"""Random weights of every format, packed and as the numbers they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cierzo.config import WeightDtype
from cierzo.kernels import PackedWeight, pack_bf16, pack_quantized, unpack

FORMATS: list[tuple[WeightDtype, bool]] = [
    ("int4", False),
    ("int4", True),
    ("int8", False),
    ("int8", True),
    ("bf16", False),
]
SHAPES = [(1, 32), (17, 40), (16, 576), (576, 576), (48, 1000), (3, 1)]


@dataclass(frozen=True)
class TestWeight:
    packed: PackedWeight
    data: NDArray[np.uint8]
    numbers: NDArray[np.float32]
    dtype: WeightDtype
    affine: bool

    __test__ = False  # not a test, whatever its name


def normal(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def packed_bytes(
    dtype: WeightDtype, affine: bool, n_out: int, n_in: int, seed: int
) -> NDArray[np.uint8]:
    """Full-range values (0 and 255 included), so that saturating arithmetic would be caught."""
    if dtype == "bf16":
        return pack_bf16(normal(seed, n_out, n_in))
    rng = np.random.default_rng(seed)
    bits = 4 if dtype == "int4" else 8
    groups = -(-n_in // 32)
    values = rng.integers(0, 2**bits, (n_out, n_in)).astype(np.uint8)
    values[rng.random((n_out, n_in)) < 0.2] = 2**bits - 1
    scales = (rng.random((n_out, groups)) * 0.05 + 0.001).astype(np.float16)
    minimums = rng.standard_normal((n_out, groups)).astype(np.float16) if affine else None
    return pack_quantized(values, scales, minimums, bits)


def random_weight(
    dtype: WeightDtype, affine: bool, n_out: int, n_in: int, seed: int = 0
) -> TestWeight:
    data = packed_bytes(dtype, affine, n_out, n_in, seed)
    packed = PackedWeight(data, dtype, affine, n_out, n_in)
    return TestWeight(packed, data, unpack(data, dtype, affine, n_out, n_in), dtype, affine)
