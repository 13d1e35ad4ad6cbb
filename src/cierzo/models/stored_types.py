"""How checkpoints store numbers, and how each kind becomes rows of floats or groups of 32.

One table for safetensors dtypes and GGUF block types. Functions take raw blocks
uint8 [n_blocks, block_nbytes] and are vectorised over them; callers pass a few
megabytes at a time. Knows nothing of files, tensor names or tile order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cierzo.config import GROUP_SIZE, WeightDtype

Bytes = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Float16 = NDArray[np.float16]

may_not_be_finite = np.errstate(over="ignore", invalid="ignore")
"""Decorates what reads numbers from files. The packer refuses those that are not finite, by name:
NumPy's warnings on the way there would only hide that."""

_NIBBLE = np.uint8(0x0F)


@dataclass(frozen=True, slots=True)
class Groups:
    """Quantised rows: weight = scale · (value − 2^(bits−1)), or affine scale · value + minimum.

    values uint8 [n, n_in]; scales and minimums float16 [n, n_in / 32].
    """

    values: Bytes
    scales: Float16
    minimums: Float16 | None
    bits: Literal[4, 8]

    def dequantize(self) -> Float32:
        """float32 [n, n_in], rounded as the formula says."""
        n, n_in = self.values.shape
        values = self.values.reshape(n, -1, GROUP_SIZE).astype(np.float32)
        scales = self.scales.astype(np.float32)[..., None]
        if self.minimums is None:
            values -= np.float32(1 << (self.bits - 1))
            values *= scales
        else:
            values *= scales
            values += self.minimums.astype(np.float32)[..., None]
        return values.reshape(n, n_in)

    def as_int8(self) -> Groups:
        """The same weights in 8 bits, exactly."""
        if self.bits == 8:
            return self
        shift = 0 if self.minimums is not None else 128 - 8
        return Groups(self.values + np.uint8(shift), self.scales, self.minimums, 8)

    @may_not_be_finite
    def as_affine(self) -> Groups:
        """The same weights with explicit minimums; exact, as the zero point is a power of 2.

        Scales over 65504 / 2^(bits−1) would overflow float16 and give infinite minimums,
        which the packer refuses.
        """
        if self.minimums is not None:
            return self
        minimums = self.scales * np.float16(-(1 << (self.bits - 1)))
        return Groups(self.values, self.scales, minimums, self.bits)

    def take(self, order: NDArray[np.int64]) -> Groups:
        """Rows in another order."""
        minimums = None if self.minimums is None else self.minimums[order]
        return Groups(self.values[order], self.scales[order], minimums, self.bits)


@dataclass(frozen=True, slots=True)
class StoredType:
    """A stored number format. `dtype` and `affine` say what it packs to when left as it is.

    `groups` is None for formats that must be dequantised first; `is_exact` says
    whether packing as stored loses nothing.
    """

    name: str
    block_size: int
    block_nbytes: int
    dtype: WeightDtype
    affine: bool
    is_exact: bool
    dequantize: Callable[[Bytes], Float32]
    groups: Callable[[Bytes], Groups] | None = None

    def row_nbytes(self, n_in: int) -> int:
        """Bytes of a row of `n_in` numbers; `n_in` must be whole blocks."""
        return n_in // self.block_size * self.block_nbytes

    @may_not_be_finite
    def float_rows(self, raw: Bytes) -> Float32:
        """raw rows uint8 [n, row_nbytes] → float32 [n, n_in], not finite where the file is not."""
        blocks = raw.reshape(-1, self.block_nbytes)
        return self.dequantize(blocks).reshape(len(raw), -1)

    @may_not_be_finite
    def group_rows(self, raw: Bytes) -> Groups:
        """raw rows uint8 [n, row_nbytes] → groups [n, n_in]; only where `groups` is set."""
        assert self.groups is not None
        blocks = self.groups(raw.reshape(-1, self.block_nbytes))
        n = len(raw)
        minimums = None if blocks.minimums is None else blocks.minimums.reshape(n, -1)
        return Groups(
            blocks.values.reshape(n, -1), blocks.scales.reshape(n, -1), minimums, blocks.bits
        )


def bf16_bits(array: Float32) -> NDArray[np.uint16]:
    """float32 → bf16 bit patterns, to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
    is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(is_nan, 0x7FC0, rounded).astype(np.uint16)


def bf16_floats(bits: NDArray[np.uint16]) -> Float32:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _f32(blocks: Bytes) -> Float32:
    return np.ascontiguousarray(blocks).view(np.float32)


def _f16(blocks: Bytes) -> Float32:
    return np.ascontiguousarray(blocks).view(np.float16).astype(np.float32)


def _bf16(blocks: Bytes) -> Float32:
    return bf16_floats(np.ascontiguousarray(blocks).view(np.uint16))


def _fp8_table() -> Float32:
    """The 256 values of float8 e4m3fn: no infinities, 0x7F and 0xFF are NaN."""
    byte = np.arange(256)
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    value = np.where(
        exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0)
    )
    value[(byte & 0x7F) == 0x7F] = np.nan
    return np.where(byte & 0x80, -value, value).astype(np.float32)


_FP8_E4M3 = _fp8_table()


def _f8_e4m3(blocks: Bytes) -> Float32:
    return _FP8_E4M3[blocks]


def _half(blocks: Bytes, offset: int) -> Float16:
    """The float16 at `offset` of every block, [n_blocks, 1]."""
    return np.ascontiguousarray(blocks[:, offset : offset + 2]).view(np.float16)


def _nibbles(packed: Bytes) -> Bytes:
    """[n, 16] bytes → [n, 32]: all low nibbles first, then all high ones."""
    return np.concatenate([packed & _NIBBLE, packed >> np.uint8(4)], axis=1)


def _fifth_bits(blocks: Bytes, offset: int) -> Bytes:
    """The 32 bits at `offset`, shifted to bit 4: [n, 32]."""
    bits = np.unpackbits(blocks[:, offset : offset + 4], axis=1, bitorder="little")
    return bits << np.uint8(4)


def _q4_0(blocks: Bytes) -> Groups:
    return Groups(_nibbles(blocks[:, 2:]), _half(blocks, 0), None, 4)


def _q4_1(blocks: Bytes) -> Groups:
    return Groups(_nibbles(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2), 4)


def _q5_0(blocks: Bytes) -> Groups:
    values = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return Groups(values + np.uint8(128 - 16), _half(blocks, 0), None, 8)


def _q5_1(blocks: Bytes) -> Groups:
    values = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return Groups(values, _half(blocks, 0), _half(blocks, 2), 8)


def _q8_0(blocks: Bytes) -> Groups:
    return Groups(blocks[:, 2:] ^ np.uint8(128), _half(blocks, 0), None, 8)


def _k_scales(packed: Bytes) -> tuple[Float32, Float32]:
    """12 bytes → 8 scales and 8 minimums of 6 bits each, [n, 8].

    Bytes 0–3 and 4–7 hold the first four scales and minimums in their low 6 bits;
    their top 2 bits complete the last four, whose low nibbles are in bytes 8–11.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & _NIBBLE) | ((first >> 2) & 0x30)], axis=1)
    minimums = np.concatenate([second & 63, (third >> 4) | ((second >> 2) & 0x30)], axis=1)
    return scales.astype(np.float32), minimums.astype(np.float32)


def _k_nibbles(packed: Bytes) -> Bytes:
    """128 bytes → 8 groups of 32: each 32 bytes hold a group in their low, one in their high."""
    quarters = packed.reshape(-1, 4, 1, 32)
    values: Bytes = np.concatenate([quarters & _NIBBLE, quarters >> np.uint8(4)], axis=2)
    return values.reshape(-1, 8, 32)


def _k_affine(blocks: Bytes) -> tuple[Float32, Float32]:
    """Scales and minimums [n, 8] in float32 of a Q4_K or Q5_K block."""
    scales, minimums = _k_scales(blocks[:, 4:16])
    scales *= _half(blocks, 0).astype(np.float32)
    minimums *= -_half(blocks, 2).astype(np.float32)
    return scales, minimums


def _q4_k_values(blocks: Bytes) -> Bytes:
    return _k_nibbles(blocks[:, 16:])


def _q5_k_values(blocks: Bytes) -> Bytes:
    high = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & np.uint8(1)
    values: Bytes = _k_nibbles(blocks[:, 48:]) | high << np.uint8(4)
    return values


def _k_groups(values: Bytes, blocks: Bytes, bits: Literal[4, 8]) -> Groups:
    """float32 scale products rounded to float16: this is where these types lose a little."""
    scales, minimums = _k_affine(blocks)
    return Groups(values, scales.astype(np.float16), minimums.astype(np.float16), bits)


def _k_floats(values: Bytes, blocks: Bytes) -> Float32:
    scales, minimums = _k_affine(blocks)
    floats = scales[:, :, None] * values.astype(np.float32)
    floats += minimums[:, :, None]
    return floats


def _q2_k(blocks: Bytes) -> Float32:
    """16 groups of 16: 4-bit scale and minimum, 2-bit values, block scales at the end."""
    packed_scales = blocks[:, :16]
    scales = (packed_scales & _NIBBLE) * _half(blocks, 80).astype(np.float32)
    minimums = (packed_scales >> 4) * _half(blocks, 82).astype(np.float32)
    values = _two_bit_planes(blocks[:, 16:80]).reshape(-1, 16, 16)
    floats: Float32 = values * scales[:, :, None] - minimums[:, :, None]
    return floats


def _two_bit_planes(packed: Bytes) -> Float32:
    """64 bytes → 256 values: each 32 bytes hold four planes of 32, lowest bits first."""
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    return (packed.reshape(-1, 2, 1, 32) >> shifts & 3).astype(np.float32).reshape(-1, 256)


def _q3_k(blocks: Bytes) -> Float32:
    """16 groups of 16: 6-bit scales, values of 2 bits plus a mask that *clears* −4."""
    low, high = blocks[:, 96:104], blocks[:, None, 104:108]
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    top_bits = (high >> shifts & 3).reshape(-1, 16) << 4
    packed_scales = np.concatenate([low & _NIBBLE, low >> 4], axis=1) | top_bits
    scales = (packed_scales.astype(np.float32) - 32) * _half(blocks, 108).astype(np.float32)
    mask = blocks[:, None, :32] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    values = _two_bit_planes(blocks[:, 32:96]) - 4 * (1 - mask.astype(np.float32)).reshape(-1, 256)
    floats: Float32 = values.reshape(-1, 16, 16) * scales[:, :, None]
    return floats


def _q6_k(blocks: Bytes) -> Float32:
    """16 groups of 16: 8-bit signed scales, values of 4 + 2 bits."""
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & _NIBBLE, low >> 4], axis=2).reshape(-1, 256)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3).reshape(-1, 256)
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    scales *= _half(blocks, 208).astype(np.float32)
    values = (low | high << 4).astype(np.float32) - 32
    floats: Float32 = values.reshape(-1, 16, 16) * scales[:, :, None]
    return floats


def _floats_of(groups: Callable[[Bytes], Groups]) -> Callable[[Bytes], Float32]:
    return lambda blocks: groups(blocks).dequantize()


def _grouped(
    name: str,
    block_nbytes: int,
    dtype: WeightDtype,
    affine: bool,
    groups: Callable[[Bytes], Groups],
) -> StoredType:
    return StoredType(name, 32, block_nbytes, dtype, affine, True, _floats_of(groups), groups)


STORED_TYPES: dict[str, StoredType] = {
    stored.name: stored
    for stored in (
        StoredType("F32", 1, 4, "bf16", False, False, _f32),
        StoredType("F16", 1, 2, "bf16", False, False, _f16),
        StoredType("BF16", 1, 2, "bf16", False, True, _bf16),
        StoredType("F8_E4M3", 1, 1, "bf16", False, False, _f8_e4m3),
        _grouped("Q4_0", 18, "int4", False, _q4_0),
        _grouped("Q4_1", 20, "int4", True, _q4_1),
        _grouped("Q5_0", 22, "int8", False, _q5_0),
        _grouped("Q5_1", 24, "int8", True, _q5_1),
        _grouped("Q8_0", 34, "int8", False, _q8_0),
        StoredType("Q2_K", 256, 84, "int8", False, False, _q2_k),
        StoredType("Q3_K", 256, 110, "int8", False, False, _q3_k),
        StoredType(
            "Q4_K",
            256,
            144,
            "int4",
            True,
            False,
            lambda blocks: _k_floats(_q4_k_values(blocks), blocks),
            lambda blocks: _k_groups(_q4_k_values(blocks), blocks, 4),
        ),
        StoredType(
            "Q5_K",
            256,
            176,
            "int8",
            True,
            False,
            lambda blocks: _k_floats(_q5_k_values(blocks), blocks),
            lambda blocks: _k_groups(_q5_k_values(blocks), blocks, 8),
        ),
        StoredType("Q6_K", 256, 210, "int8", False, False, _q6_k),
    )
}
