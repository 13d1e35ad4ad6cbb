"""Program: what is noted runs as if it had been called, with the operands it was given."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from cierzo import kernels
from cierzo.kernels import ForwardInput, KVCache, PackedWeight, Program, RMSNorm, Tensor
from tests.kernels.weights import normal, random_weight

DIM, HIDDEN, VOCAB, HEAD_DIM = 64, 48, 80, 16
ROWS = np.array([4, 0], np.int32)


def step_of(token_ids: list[int], num_prompt_tokens: int = 0) -> ForwardInput:
    """One sequence whose first tokens these are, in blocks 0, 1, …"""
    positions = np.arange(len(token_ids), dtype=np.int32)
    angles = positions[:, None] * np.linspace(0.1, 1, HEAD_DIM // 2)
    return ForwardInput(
        np.array(token_ids, np.int32),
        positions,
        positions,
        np.array([0, len(token_ids)], np.int32),
        np.array([len(token_ids)], np.int32),
        np.arange(-(-len(token_ids) // 16), dtype=np.int32)[None],
        np.cos(angles).astype(np.float32),
        np.sin(angles).astype(np.float32),
        np.full(len(token_ids), 0.25, np.float32),
        num_prompt_tokens,
    )


def stack(n_out: int, n_in: int) -> PackedWeight:
    """Three experts, all alike."""
    data = random_weight("int4", False, n_out, n_in).data
    return PackedWeight(np.concatenate([data] * 3), "int4", False, n_out, n_in, 3)


class Block:
    """The operands of one small layer with a feed-forward part and a sparse one."""

    def __init__(self) -> None:
        self.embedding = random_weight("int8", False, VOCAB, DIM).packed
        self.qkv = random_weight("int4", False, 2 * DIM, DIM).packed
        self.o = random_weight("int4", False, DIM, DIM).packed
        self.gate_up = random_weight("int4", True, 2 * HIDDEN, DIM).packed
        self.down = random_weight("int8", True, DIM, HIDDEN).packed
        self.experts_up, self.experts_down = stack(2 * HIDDEN, DIM), stack(DIM, HIDDEN)
        self.router = Tensor.from_numpy(normal(5, 3, DIM))
        self.norm = Tensor.from_numpy(normal(6, 1, DIM))
        self.of_rows = RMSNorm(self.norm, 1e-5)
        self.counts = Tensor.from_numpy(np.zeros((1, 3), np.float32))
        self.x, self.h, self.due = (Tensor(0, DIM) for _ in range(3))

    def note(self, p: Program) -> None:
        p.embed(self.x, self.embedding)
        p.rms_norm(self.h, self.x, self.norm, 1e-5)
        p.attention_layer(self.x, self.qkv, self.o, self.of_rows, 0, 4, sliding_window=3)
        p.feed_forward(self.x, self.gate_up, self.down, norm=self.of_rows)
        p.moe(self.x, self.h, self.router, self.experts_up, self.experts_down, 2, self.counts)
        p.gather_rows(self.due, self.x)

    def call(self, step: ForwardInput, kv: KVCache) -> None:
        n = step.num_prompt_tokens
        kernels.embed(self.x, step, self.embedding)
        kernels.rms_norm(self.h, self.x, self.norm, 1e-5)
        kernels.attention_layer(
            self.x, self.qkv, self.o, self.of_rows, step, kv, 0, 4, sliding_window=3
        )
        kernels.feed_forward(self.x, self.gate_up, self.down, n, self.of_rows)
        kernels.moe(
            self.x, self.h, self.router, self.experts_up, self.experts_down, 2, num_prompt_rows=n
        )
        kernels.gather_rows(self.due, self.x, ROWS)


def test_a_program_does_what_its_ops_do() -> None:
    block, program = Block(), Program()
    block.note(program)
    for step in (step_of([7, 3, 9, 1, 4, 79, 0]), step_of([5, 5, 5, 8, 2], 5)):
        kv = KVCache(1, 1, 2, HEAD_DIM)
        block.call(step, kv)
        expected = block.due.numpy().copy()
        block.due.numpy()[:] = np.nan
        program.run(step, KVCache(1, 1, 2, HEAD_DIM), ROWS)
        np.testing.assert_array_equal(block.due.numpy(), expected)
    assert block.counts.numpy().sum() == 2 * (7 + 5)


def test_a_program_keeps_its_operands() -> None:
    block, program = Block(), Program()
    block.note(program)
    due, step = block.due, step_of([1, 2, 3, 4, 5])
    program.run(step, KVCache(1, 1, 2, HEAD_DIM), ROWS)
    expected = due.numpy().copy()
    del block
    gc.collect()
    _overwritten = [Tensor.from_numpy(normal(i, 64, DIM)) for i in range(64)]
    program.run(step, KVCache(1, 1, 2, HEAD_DIM), ROWS)
    np.testing.assert_array_equal(due.numpy(), expected)


def test_a_wrong_op_stops_the_run_by_name() -> None:
    program = Program()
    program.rms_norm(Tensor(1, 4), Tensor(1, 4), Tensor(1, 5), 1e-5)
    with pytest.raises(ValueError, match="rms_norm: weight must be"):
        program.run(step_of([0]), KVCache(1, 1, 2, HEAD_DIM), ROWS)
