"""A model whose logits are a hash of the tokens it reads back through its paged KV cache.

A wrong slot, block, position or window, or a stale prefix, changes the text it writes or
raises. It is a hundred times faster than the smallest real model, which is what the
property-based tests need.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cierzo.config import BLOCK_SIZE, ModelConfig
from cierzo.kernels import Tensor
from cierzo.models.transformer import StepArrays

VOCAB_SIZE = 97
PROMPT_TOKEN = 1000


def fake_config(sliding_window: int | None = None, n_layers: int = 1) -> ModelConfig:
    return ModelConfig(
        architecture="mistral",
        dim=8,
        n_layers=n_layers,
        n_heads=1,
        n_kv_heads=1,
        head_dim=8,
        hidden_dim=8,
        vocab_size=VOCAB_SIZE,
        norm_eps=1e-5,
        rope_theta=1e4,
        max_seq_len=512,
        sliding_window=(sliding_window,) * n_layers,
    )


class FakeModel:
    """KV cache: [slot] → (token id, position); a prompt token's id is stored as 1000 more.
    `fail_on` is a token that it never chooses, and that makes a step raise."""

    def __init__(
        self,
        sliding_window: int | None = None,
        fail_on: int | None = None,
        tells_prompt_apart: bool = True,
    ) -> None:
        self.config = fake_config(sliding_window)
        self.fail_on = fail_on
        self.num_computed_tokens = 0
        self.batch_sizes: list[int] = []
        self.logits = Tensor(0, VOCAB_SIZE)
        self.tells_prompt_apart = tells_prompt_apart

    @property
    def expert_tokens(self) -> NDArray[np.int64]:
        return np.zeros((0, 0), np.int64)

    def new_kv_cache(self, num_blocks: int) -> Any:
        return np.full((num_blocks * BLOCK_SIZE, 2), -1, np.int32)

    def copy_blocks(self, kv_cache: Any, copies: list[tuple[int, int]]) -> None:
        for source, target in copies:
            slots = kv_cache.reshape(-1, BLOCK_SIZE, 2)
            slots[target] = slots[source]

    def forward(self, step: StepArrays, kv_cache: Any, logits_rows: NDArray[np.int32]) -> Tensor:
        if self.fail_on is not None and self.fail_on in step.token_ids:
            raise RuntimeError("the fake model fails on request")
        self.num_computed_tokens += len(step.token_ids)
        self.batch_sizes.append(len(step.context_lens))
        assert (step.slot_mapping >= 0).all(), "a token has no block to go to"
        assert len(set(step.slot_mapping.tolist())) == len(step.slot_mapping)
        stored = step.token_ids.copy()
        if self.tells_prompt_apart:
            assert step.num_prompt_tokens in step.query_starts, "a sequence has rows of two classes"
            stored[: step.num_prompt_tokens] += PROMPT_TOKEN
        kv_cache[step.slot_mapping] = np.stack([stored, step.positions], axis=1)
        self.logits.resize(len(logits_rows))
        for out, row in zip(self.logits.numpy(), logits_rows.tolist(), strict=True):
            out[:] = self._row_logits(step, kv_cache, row)
            if self.fail_on is not None:
                out[self.fail_on] = -np.inf
        return self.logits

    def hidden(self, step: StepArrays, kv_cache: Any, rows: NDArray[np.int32]) -> Tensor:
        """The logits stand for the hidden states."""
        return self.forward(step, kv_cache, rows)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden

    def _row_logits(
        self, step: StepArrays, kv_cache: NDArray[np.int32], row: int
    ) -> NDArray[np.float32]:
        s = int(np.searchsorted(step.query_starts, row, side="right")) - 1
        length = int(step.context_lens[s] - (step.query_starts[s + 1] - 1 - row))
        window = self.config.sliding_window[0]
        positions = np.arange(0 if window is None else max(0, length - window), length)
        blocks = step.block_tables[s, positions // BLOCK_SIZE]
        assert (blocks >= 0).all(), "a block that is still attended to was freed"
        tokens, stored_positions = kv_cache[blocks * BLOCK_SIZE + positions % BLOCK_SIZE].T
        assert (stored_positions == positions).all(), "a slot holds another position's KV"
        return hash_logits(tokens)


def hash_logits(tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """Logits [VOCAB_SIZE] in -4 … 4 that depend on every token and on their order."""
    digest = blake2b(tokens.astype(np.int32).tobytes(), digest_size=8).digest()
    seed = np.frombuffer(digest, np.uint64)
    state = seed * np.arange(1, VOCAB_SIZE + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state ^= state >> np.uint64(29)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(32)
    return (state % np.uint64(4096)).astype(np.float32) / np.float32(512) - np.float32(4)
