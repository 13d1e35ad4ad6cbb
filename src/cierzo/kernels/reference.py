"""The slow NumPy twins of the matmul family: what each kernel must compute.

Plain arrays and dequantised weights. Rows are quantised or rounded exactly as the kernels do
(docs/architecture.md, "One numeric contract"), sums are taken in float64, so a kernel differs
from its twin by float32 rounding of the sums only. The first `num_prompt_rows` rows are prompt
tokens: they and their weights are rounded to bf16. Axes: T rows, E experts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cierzo.config import GROUP_SIZE, WeightDtype

Floats = NDArray[np.float32]
_PANEL = 16
_ZERO_POINT = {4: 8, 8: 128}


def _grouped(x: Floats) -> Floats:
    """[n, n_in] → [n, groups, 32], the last group filled with zeros."""
    rows, n_in = x.shape
    groups = -(-n_in // GROUP_SIZE)
    padded = np.zeros((rows, groups * GROUP_SIZE), np.float32)
    padded[:, :n_in] = x
    return padded.reshape(rows, groups, GROUP_SIZE)


def quantize_rows(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """int8 values [T, groups, 32] and scales [T, groups]; value · scale approximates x."""
    grouped = _grouped(x)
    scales = (np.abs(grouped).max(axis=2) / np.float32(127)).astype(np.float32)
    scales[scales < np.finfo(np.float32).tiny] = 0
    inverses = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales > 0)
    return np.rint(grouped * inverses[:, :, None]).astype(np.int8), scales


def round_to_bf16(x: Floats) -> Floats:
    """Round half to even to 8 bits of precision."""
    bits = x.astype(np.float32).view(np.uint32)
    rounded: NDArray[np.uint32] = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def bf16_weights(weight: Floats) -> Floats:
    """Quantised weights as prompt rows meet them: rounded to bf16, halves away from zero."""
    bits = weight.astype(np.float32).view(np.uint32)
    rounded: NDArray[np.uint32] = (bits + np.uint32(0x8000)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def activations(x: Floats, dtype: WeightDtype) -> Floats:
    """The rows as a product with weights of `dtype` sees them."""
    if dtype == "bf16":
        return round_to_bf16(x)
    values, scales = quantize_rows(x)
    rows = values * scales[:, :, None]
    return np.ascontiguousarray(
        rows.reshape(len(x), values.shape[1] * GROUP_SIZE)[:, : x.shape[1]], dtype=np.float32
    )


def matmul(x: Floats, weight: Floats, dtype: WeightDtype, num_prompt_rows: int = 0) -> Floats:
    """x [T, n_in] · weightᵀ, weight [n_out, n_in] dequantised."""
    prompt, completion = x[:num_prompt_rows], x[num_prompt_rows:]
    factors = [
        (round_to_bf16(prompt), bf16_weights(weight)),
        (activations(completion, dtype), weight),
    ]
    products = [rows.astype(np.float64) @ w.astype(np.float64).T for rows, w in factors]
    return np.concatenate(products).astype(np.float32)


def silu(x: Floats) -> Floats:
    product: Floats = (x / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)
    return product


def interleave_gate_up(gate: Floats, up: Floats) -> Floats:
    """gate and up [hidden, dim] → [2 · padded hidden, dim]: 16 rows of one, 16 of the other."""
    hidden, dim = gate.shape
    padded = -(-hidden // _PANEL) * _PANEL
    both = np.zeros((padded // _PANEL, 2, _PANEL, dim), np.float32)
    for index, part in enumerate((gate, up)):
        rows = np.zeros((padded, dim), np.float32)
        rows[:hidden] = part
        both[:, index] = rows.reshape(-1, _PANEL, dim)
    return both.reshape(2 * padded, dim)


def matmul_swiglu(
    x: Floats, gate_up: Floats, hidden: int, dtype: WeightDtype, num_prompt_rows: int = 0
) -> Floats:
    """silu(x · gateᵀ) ⊙ (x · upᵀ) [T, hidden], gate_up interleaved as above."""
    sums = matmul(x, gate_up, dtype, num_prompt_rows)
    factors = sums.reshape(len(x), len(gate_up) // (2 * _PANEL), 2, _PANEL)
    product = silu(factors[:, :, 0]) * factors[:, :, 1]
    return np.ascontiguousarray(product.reshape(len(x), len(gate_up) // 2)[:, :hidden])


def route(h: Floats, router: Floats, num_experts_per_tok: int) -> tuple[NDArray[np.int64], Floats]:
    """Expert ids and weights [T, num_experts_per_tok], best first, ties to the lowest id."""
    router_logits = h @ router.T
    expert_ids = np.argsort(-router_logits, axis=1, kind="stable")[:, :num_experts_per_tok]
    chosen = np.take_along_axis(router_logits, expert_ids, axis=1)
    exponentials = np.exp(chosen - chosen[:, :1])
    expert_weights = exponentials / exponentials.sum(axis=1, keepdims=True)
    return expert_ids, expert_weights.astype(np.float32)


def moe(
    x: Floats,
    h: Floats,
    router: Floats,
    gate_up: list[Floats],
    down: list[Floats],
    num_experts_per_tok: int,
    dtype: WeightDtype,
    num_prompt_rows: int = 0,
) -> Floats:
    """x + Σ over the chosen experts of weight · FF(h); one gate_up and one down per expert."""
    out = x.astype(np.float64)
    expert_ids, expert_weights = route(h, router, num_experts_per_tok)
    for row, (ids, weights) in enumerate(zip(expert_ids, expert_weights, strict=True)):
        is_prompt = int(row < num_prompt_rows)
        for expert_id, weight in zip(ids, weights, strict=True):
            hidden = down[expert_id].shape[1]
            inner = matmul_swiglu(h[row : row + 1], gate_up[expert_id], hidden, dtype, is_prompt)
            product = matmul(inner, down[expert_id], dtype, is_prompt)
            out[row] += weight * product[0].astype(np.float64)
    return out.astype(np.float32)


def gather_rows(x: Floats, rows: NDArray[np.int32]) -> Floats:
    return x[rows]


def dequantize(
    values: NDArray[np.uint8],
    scales: NDArray[np.float16],
    minimums: NDArray[np.float16] | None,
    bits: int,
) -> Floats:
    """The weights [n_out, n_in] that quantised values and their scales stand for."""
    n_in = values.shape[1]
    scale = np.repeat(scales.astype(np.float32), GROUP_SIZE, axis=1)[:, :n_in]
    if minimums is None:
        return scale * (values.astype(np.float32) - np.float32(_ZERO_POINT[bits]))
    minimum = np.repeat(minimums.astype(np.float32), GROUP_SIZE, axis=1)[:, :n_in]
    return scale * values.astype(np.float32) + minimum


def pack_quantized(
    values: NDArray[np.uint8],
    scales: NDArray[np.float16],
    minimums: NDArray[np.float16] | None,
    bits: int,
) -> NDArray[np.uint8]:
    """Tile order, straight from its definition in docs/architecture.md."""
    n_out, n_in = values.shape
    panels, groups = -(-n_out // _PANEL), -(-n_in // GROUP_SIZE)
    zero = _ZERO_POINT[bits] if minimums is None else 0
    padded = np.full((panels * _PANEL, groups * GROUP_SIZE), zero, np.uint8)
    padded[:n_out, :n_in] = values
    # [panel, output, group, quad, input] → [panel, group, quad, output, input]
    quads = padded.reshape(panels, _PANEL, groups, 8, 4).transpose(0, 2, 3, 1, 4)
    if bits == 4:
        quads = quads[:, :, :4] | (quads[:, :, 4:] << 4)
    parts = [quads.reshape(panels, groups, -1)]
    for notes in (scales, minimums):
        if notes is not None:
            column = np.zeros((panels * _PANEL, groups), np.float16)
            column[:n_out] = notes
            by_tile = column.reshape(panels, _PANEL, groups).transpose(0, 2, 1)
            parts.append(np.ascontiguousarray(by_tile).view(np.uint8))
    return np.concatenate(parts, axis=2).reshape(-1)


def pack_bf16(w: Floats) -> NDArray[np.uint8]:
    """Tile order of bf16: 16 lines of [16 outputs][2 inputs]."""
    n_out, n_in = w.shape
    panels, groups = -(-n_out // _PANEL), -(-n_in // GROUP_SIZE)
    padded = np.zeros((panels * _PANEL, groups * GROUP_SIZE), np.float32)
    padded[:n_out, :n_in] = round_to_bf16(w)
    pairs = padded.reshape(panels, _PANEL, groups, 16, 2).transpose(0, 2, 3, 1, 4)
    halves = (np.ascontiguousarray(pairs).view(np.uint32) >> 16).astype(np.uint16)
    return halves.reshape(-1).view(np.uint8)
