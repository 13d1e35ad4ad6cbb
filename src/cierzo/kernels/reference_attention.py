"""Slow NumPy twins of the ops around the products: what each must compute, in plain arrays.

T tokens, H heads, K kv heads, d head_dim, C context length, V vocabulary. Sums are float64, so a
twin is the answer up to rounding; queries, keys and values are rounded as the kernel does.
Knows nothing of blocks, threads or instruction sets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cierzo.config import KvCacheDtype

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


def round_to_bf16(x: Floats) -> Floats:
    """To the nearest bf16, half to even, kept as float32. Finite values only."""
    bits: NDArray[np.uint32] = np.ascontiguousarray(x, np.float32).view(np.uint32)
    half_even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded: NDArray[np.uint32] = (bits + half_even) & np.uint32(0xFFFF0000)
    widened: Floats = rounded.view(np.float32)
    return widened


def round_to_int8(x: Floats) -> Floats:
    """x [..., d]: each row as integers times one scale in bf16, bit for bit as an int8 cache keeps
    it. Finite values only."""
    exact = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    scale = np.where(exact < np.finfo(np.float32).tiny, np.float32(0), round_to_bf16(exact))
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    rounded: Floats = np.rint(x * inverse) * scale
    return rounded


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x [T, D], weight [D] → [T, D]"""
    mean = np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True)
    result: Floats = (x / np.sqrt(mean + eps) * weight).astype(np.float32)
    return result


def rope(x: Floats, cos: Floats, sin: Floats, *, interleaved: bool = False) -> Floats:
    """x [T, H, d] rotated by cos and sin [T, d / 2]; rounds as the kernel does, bit for bit."""
    c, s = cos[:, None, :], sin[:, None, :]
    if interleaved:
        first, second = x[..., 0::2], x[..., 1::2]
    else:
        first, second = np.split(x, 2, axis=-1)
    rotated = first * c - second * s, second * c + first * s
    if interleaved:
        return np.stack(rotated, axis=-1).reshape(x.shape)
    return np.concatenate(rotated, axis=-1)


def attention(
    q: Floats,
    k: Floats,
    v: Floats,
    sliding_window: int = 0,
    *,
    is_prompt: bool = False,
    kv_cache_dtype: KvCacheDtype = "bf16",
) -> Floats:
    """The last T of C positions attend: q [T, H, d] (scaled), k and v [C, K, d] → [T, H, d]

    A prompt row's weights are rounded to bf16 before they meet the values, relative to a
    reference that follows the scores from step to step (`native/attention.cpp`).
    """
    num_queries, n_heads, _ = q.shape
    queries_per_kv_head = n_heads // k.shape[1]
    if kv_cache_dtype == "int8":
        k, v = round_to_int8(k), round_to_int8(v)
    if kv_cache_dtype == "bf16" or is_prompt:
        k, v = round_to_bf16(k), round_to_bf16(v)
    keys = np.repeat(k, queries_per_kv_head, axis=1).astype(np.float64)
    values = np.repeat(v, queries_per_kv_head, axis=1).astype(np.float64)
    scores = np.einsum("thd,chd->htc", round_to_bf16(q).astype(np.float64), keys)
    query = np.arange(num_queries)[:, None] + len(k) - num_queries
    position = np.arange(len(k))[None, :]
    hidden = position > query
    if sliding_window:
        hidden |= position <= query - sliding_window
    scores = np.where(hidden, -np.inf, scores)
    largest = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - largest)
    sums = weights.sum(axis=-1, keepdims=True)
    if is_prompt:
        weights = _rounded_weights(scores) * np.exp(-largest)
    attended: Floats = np.einsum("htc,chd->thd", weights / sums, values).astype(np.float32)
    return attended


def _rounded_weights(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(scores), each rounded to bf16 relative to its row's reference at its step of 64."""
    weights = np.zeros(scores.shape)
    reference = np.full(scores.shape[:-1], -np.inf)
    for begin in range(0, scores.shape[-1], 64):
        step = scores[..., begin : begin + 64]
        largest = step.max(axis=-1)
        reference = np.where(np.isfinite(reference), reference, largest)
        shift = np.where(np.isfinite(reference), reference, 0.0)[..., None]
        relative = np.minimum(step - shift, 128 * np.log(2))
        reference = np.where(_lane_sums(relative).max(axis=-1) > 2.0**16, largest, reference)
        shift = np.where(np.isfinite(reference), reference, 0.0)[..., None]
        rounded = round_to_bf16(np.exp(step - shift).astype(np.float32))
        weights[..., begin : begin + 64] = rounded * np.exp(shift)
    return weights


def _lane_sums(exponents: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., n] → [..., 16], Σ exp over what lies 16 apart; n is at most 64"""
    padding = [(0, 0)] * (exponents.ndim - 1) + [(0, 64 - exponents.shape[-1])]
    padded = np.pad(np.exp(exponents), padding)
    sums: NDArray[np.float64] = padded.reshape(*exponents.shape[:-1], 4, 16).sum(axis=-2)
    return sums


def argmax(logits: Floats) -> Ints:
    """logits [R, V] → ids [R]; ties: lowest id"""
    ids: Ints = np.argmax(logits, axis=-1).astype(np.int32)
    return ids


def logsumexp(logits: Floats) -> Floats:
    """logits [R, V] → [R]"""
    top = logits.max(axis=-1, keepdims=True).astype(np.float64)
    result: Floats = (np.log(np.exp(logits - top).sum(axis=-1)) + top[:, 0]).astype(np.float32)
    return result


def top_k(logits: Floats, k: int) -> tuple[Ints, Floats]:
    """logits [V] → the k largest, descending, ties by lowest id"""
    ids = np.argsort(-logits, kind="stable")[:k]
    return ids.astype(np.int32), logits[ids]


def sample(logits: Floats, temperature: float, top_k: int, top_p: float, uniform: float) -> int:
    """One id of logits [V].

    Temperature 0 is the argmax. With top_k (0 = off) and top_p (1 = off) off, the draw walks
    the cumulative probability in id order. Otherwise candidates are ordered by descending
    logit, ties by lowest id; top_k keeps the first k, top_p the fewest first ones holding at
    least that share of what is left, and the draw walks those in that order.
    """
    if temperature == 0.0:
        return int(np.argmax(logits))
    weights = np.exp((logits - logits.max()).astype(np.float64) / temperature)
    if (top_k == 0 or top_k >= len(logits)) and top_p >= 1.0:
        order = np.arange(len(logits))
    else:
        order = np.argsort(-logits, kind="stable")[: top_k or None]
    cumulative = np.cumsum(weights[order])
    if top_p < 1.0:
        kept = int(np.searchsorted(cumulative, top_p * cumulative[-1], side="left")) + 1
        cumulative = cumulative[:kept]
    chosen = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    return int(order[min(chosen, len(cumulative) - 1)])


def apply_mask(logits: Floats, mask: NDArray[np.uint32]) -> Floats:
    """logits [V] with -inf where bit i of mask [ceil(V / 32)] is 0"""
    ids = np.arange(len(logits))
    allowed = (mask[ids // 32] >> (ids % 32).astype(np.uint32)) & np.uint32(1)
    return np.where(allowed == 1, logits, -np.inf).astype(np.float32)
