"""Sequences laid out over a paged KV cache, for tests: a `Sequence` is plain arrays, `run` steps
some of them through rope_and_store and attention."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cierzo.kernels import ForwardInput, KVCache, Tensor, attention, rope_and_store

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
BLOCK_SIZE = 16


@dataclass(frozen=True)
class Shape:
    n_heads: int
    n_kv_heads: int
    head_dim: int

    @property
    def width(self) -> int:
        return (self.n_heads + 2 * self.n_kv_heads) * self.head_dim


@dataclass
class Sequence:
    """`qkv` [C, width]: all its tokens; `blocks`: which blocks hold them."""

    qkv: Floats
    blocks: list[int]
    num_computed_tokens: int = 0
    outputs: list[Floats] = field(default_factory=list)

    def slots(self, begin: int, end: int) -> Ints:
        positions = np.arange(begin, end)
        table = np.array(self.blocks, np.int32)
        slots: Ints = table[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        return slots.astype(np.int32)


def make_sequence(rng: np.random.Generator, shape: Shape, length: int, free: list[int]) -> Sequence:
    """`length` random tokens; takes the blocks they need from `free`."""
    needed = -(-length // BLOCK_SIZE)
    blocks = [free.pop() for _ in range(needed)]
    return Sequence(rng.standard_normal((length, shape.width), np.float32) * 2, blocks)


def angles(positions: Ints, head_dim: int) -> tuple[Floats, Floats]:
    frequencies = 10000.0 ** -(np.arange(0, head_dim, 2) / head_dim)
    angle = positions[:, None] * frequencies
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def forward_input(
    batch: list[tuple[Sequence, int]],
    head_dim: int,
    freed: dict[int, int] | None = None,
    num_prompts: int = 0,
) -> ForwardInput:
    """The step that computes the next `count` tokens of each, as prompt tokens for the first
    `num_prompts`; freed[i]: blocks of i given back."""
    counts = [count for _, count in batch]
    begins = [sequence.num_computed_tokens for sequence, _ in batch]
    spans = [np.arange(b, b + n, dtype=np.int32) for b, n in zip(begins, counts, strict=True)]
    positions = np.concatenate([*spans, np.zeros(0, np.int32)])
    slots = [s.slots(s.num_computed_tokens, s.num_computed_tokens + n) for s, n in batch]
    max_blocks = max((len(s.blocks) for s, _ in batch), default=0)
    tables = np.full((len(batch), max_blocks), -1, np.int32)
    for i, (sequence, _) in enumerate(batch):
        tables[i, : len(sequence.blocks)] = sequence.blocks
        tables[i, : (freed or {}).get(i, 0)] = -1
    cos, sin = angles(positions, head_dim)
    return ForwardInput(
        np.zeros(len(positions), np.int32),
        positions,
        np.concatenate([*slots, np.zeros(0, np.int32)]),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        np.array([b + n for b, n in zip(begins, counts, strict=True)], np.int32),
        tables,
        cos,
        sin,
        np.full(len(positions), head_dim**-0.5, np.float32),
        sum(counts[:num_prompts]),
    )


def run(
    kv_cache: KVCache,
    shape: Shape,
    batch: list[tuple[Sequence, int]],
    sliding_window: int = 0,
    num_prompts: int = 0,
) -> None:
    """One step on layer 0; each sequence's attention goes to its `outputs`."""
    step = forward_input(batch, shape.head_dim, num_prompts=num_prompts)
    rows = [s.qkv[s.num_computed_tokens : s.num_computed_tokens + n] for s, n in batch]
    qkv = Tensor.from_numpy(np.concatenate([*rows, np.zeros((0, shape.width), np.float32)]))
    q = Tensor(0, shape.n_heads * shape.head_dim)
    out = Tensor(0, shape.n_heads * shape.head_dim)
    rope_and_store(q, qkv, step, kv_cache, 0, shape.n_heads)
    attention(out, q, step, kv_cache, 0, sliding_window)
    begin = 0
    for sequence, count in batch:
        sequence.num_computed_tokens += count
        sequence.outputs.append(out.numpy()[begin : begin + count].copy())
        begin += count
