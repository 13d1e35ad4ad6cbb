"""The packed layout of docs/architecture.md in plain NumPy: what the native packer must do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
TILE_BYTES = {
    ("int4", False): 288,
    ("int4", True): 320,
    ("int8", False): 544,
    ("int8", True): 576,
    ("bf16", False): 1024,
}


def packed_nbytes(dtype: str, affine: bool, n_out: int, n_in: int) -> int:
    return -(-n_out // 16) * -(-n_in // 32) * TILE_BYTES[dtype, affine]


def unpack(data: Bytes, dtype: str, affine: bool, n_out: int, n_in: int) -> NDArray[np.float32]:
    """float32 [n_out, n_in], read tile by tile."""
    panels, groups = -(-n_out // 16), -(-n_in // 32)
    tiles = data.reshape(panels, groups, TILE_BYTES[dtype, affine])
    out = np.empty((panels, 16, groups, 32), np.float32)
    for panel in range(panels):
        for group in range(groups):
            out[panel, :, group] = _tile(tiles[panel, group], dtype, affine)
    return out.reshape(panels * 16, groups * 32)[:n_out, :n_in]


def _tile(tile: Bytes, dtype: str, affine: bool) -> NDArray[np.float32]:
    """One tile as float32 [16 outputs, 32 inputs]."""
    if dtype == "bf16":
        bits = tile.view(np.uint16).reshape(16, 16, 2).astype(np.uint32) << 16
        return bits.view(np.float32).transpose(1, 0, 2).reshape(16, 32)
    if dtype == "int4":
        lines = tile[:256].reshape(4, 16, 4)
        quads = np.concatenate([lines & 15, lines >> 4])
        scale_start, zero = 256, 8
    else:
        quads = tile[:512].reshape(8, 16, 4)
        scale_start, zero = 512, 128
    values = quads.transpose(1, 0, 2).reshape(16, 32).astype(np.float32)
    halves = tile[scale_start:].view(np.float16).astype(np.float32)
    scales = halves[:16, None]
    weights: NDArray[np.float32]
    weights = scales * values + halves[16:32, None] if affine else scales * (values - zero)
    return weights


def pack_quantized(
    values: Bytes,
    scales: NDArray[np.float16],
    minimums: NDArray[np.float16] | None,
    bits: int,
) -> Bytes:
    """values uint8 [n_out, n_in] and float16 [n_out, n_in / 32] → tile order."""
    n_out, n_in = values.shape
    rows = -n_out % 16
    values = np.pad(values, ((0, rows), (0, 0))).reshape(-1, 16, n_in // 32, 8, 4)
    quads = values.transpose(0, 2, 3, 1, 4)  # panel, group, quad, output, input
    if bits == 4:
        quads = quads[:, :, :4] | (quads[:, :, 4:] << np.uint8(4))
    parts = [quads.reshape(*quads.shape[:2], -1)]
    for half in (scales, minimums):
        if half is not None:
            tiled = np.pad(half, ((0, rows), (0, 0))).reshape(-1, 16, n_in // 32)
            parts.append(np.ascontiguousarray(tiled.transpose(0, 2, 1)).view(np.uint8))
    return np.concatenate(parts, axis=2).reshape(-1)


def pack_bf16(w: NDArray[np.float32]) -> Bytes:
    """float32 [n_out, n_in] → tile order, rounded to nearest even."""
    n_out, n_in = w.shape
    bits = w.view(np.uint32)
    bits = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    tiled = np.pad(bits, ((0, -n_out % 16), (0, 0))).reshape(-1, 16, n_in // 32, 16, 2)
    return np.ascontiguousarray(tiled.transpose(0, 2, 3, 1, 4)).view(np.uint8).reshape(-1)


def quantize(
    w: NDArray[np.float32], bits: int
) -> tuple[Bytes, NDArray[np.float16], NDArray[np.float16] | None]:
    """int4 affine from minimum and maximum, int8 symmetric: plainer than the native search."""
    groups = w.reshape(len(w), -1, 32)
    if bits == 8:
        scales = (np.abs(groups).max(2) / 127).astype(np.float16)
        safe = np.where(scales == 0, 1, scales).astype(np.float32)[..., None]
        values = np.clip(np.rint(groups / safe), -127, 127) + 128
        return values.astype(np.uint8).reshape(w.shape), scales, None
    low = groups.min(2).astype(np.float16)
    scales = ((groups.max(2) - low) / 15).astype(np.float16)
    safe = np.where(scales == 0, 1, scales).astype(np.float32)[..., None]
    values = np.clip(np.rint((groups - low.astype(np.float32)[..., None]) / safe), 0, 15)
    return values.astype(np.uint8).reshape(w.shape), scales, low
