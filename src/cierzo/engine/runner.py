"""Runs a batch: owns the model and the KV cache that its sequences' blocks lie in."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cierzo.config import BLOCK_SIZE, ModelConfig
from cierzo.engine.batch import Batch
from cierzo.kernels import Tensor
from cierzo.models.transformer import StepArrays

Int32 = NDArray[np.int32]
Rows = NDArray[np.float32]

CHUNK = 256
"""Tokens per forward pass of a sequence that runs alone."""

SHORT_PROMPT = 8
"""So many prompt tokens or fewer are computed as completion tokens where an answer follows: reading
the weights is most of the work for so few rows, and making them bf16 would be up to twice as much
again (docs/decisions/0008)."""


class Model(Protocol):
    """What the engine needs of a model (`models.Transformer`).

    The KV cache is the model's own; the engine only carries it, hence Any.
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def tells_prompt_apart(self) -> bool:
        """True when a prompt token's KV differs from the same token's that was sampled."""

    @property
    def expert_tokens(self) -> NDArray[np.int64]:
        """Tokens that each expert worked on so far, [layers, experts]; no layers where dense."""

    def new_kv_cache(self, num_blocks: int) -> Any: ...

    def copy_blocks(self, kv_cache: Any, copies: list[tuple[int, int]]) -> None: ...

    def forward(self, step: StepArrays, kv_cache: Any, logits_rows: Int32) -> Tensor: ...

    def hidden(self, step: StepArrays, kv_cache: Any, rows: Int32) -> Tensor: ...

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states."""


class ModelRunner:
    """One model with room for `num_blocks` blocks of KV. Not thread-safe: one step at a time."""

    def __init__(self, model: Model, num_blocks: int) -> None:
        self.model = model
        self._kv_cache = model.new_kv_cache(num_blocks)

    def prompt_end(self, num_prompt_tokens: int, is_answered: bool = True) -> int:
        """How many tokens of a prompt are computed as prompt tokens: all or none."""
        is_short = is_answered and num_prompt_tokens <= SHORT_PROMPT
        return num_prompt_tokens if self.model.tells_prompt_apart and not is_short else 0

    def run(self, batch: Batch) -> Tensor:
        """Logits [len(batch.logits_rows), vocab_size]; valid until the next step."""
        pooled = batch.pooled
        if not pooled and not batch.mean_rows:
            return self.model.forward(batch.arrays, self._kv_cache, batch.logits_rows)
        num_logits = len(batch.logits_rows)
        rows = np.concatenate([batch.logits_rows, batch.hidden_rows])
        hidden = self.model.hidden(batch.arrays, self._kv_cache, rows)
        values = hidden.numpy()
        for row, sequence in pooled:
            sequence.hidden = values[row].copy()
        _add_to_means(batch, values[num_logits:])
        hidden.resize(num_logits)
        return self.model.head(hidden)

    def copy_blocks(self, copies: list[tuple[int, int]]) -> None:
        """Copy the KV of whole blocks, (from, to), one after another."""
        self.model.copy_blocks(self._kv_cache, copies)

    def logits(self, token_ids: Int32, num_prompt_tokens: int | None = None) -> Rows:
        """Logits [n_tokens, vocab_size] of one sequence, with a KV cache of its own.

        Computed as those of a request are, whose prompt are the first `num_prompt_tokens` (None:
        all of them).
        """
        prompt_end = self.prompt_end(
            len(token_ids) if num_prompt_tokens is None else num_prompt_tokens
        )
        num_blocks = -(-len(token_ids) // BLOCK_SIZE)
        kv_cache = self.model.new_kv_cache(num_blocks)
        table = np.arange(num_blocks, dtype=np.int32)[None]
        chunks = []
        end = 0
        while end < len(token_ids):
            start = end
            end = min(start + CHUNK, prompt_end if start < prompt_end else len(token_ids))
            positions = np.arange(start, end, dtype=np.int32)
            step = StepArrays(
                token_ids=token_ids[start:end],
                positions=positions,
                slot_mapping=positions,  # blocks in order: a token's slot is its position
                query_starts=np.array([0, end - start], np.int32),
                context_lens=np.array([end], np.int32),
                block_tables=table,
                num_prompt_tokens=end - start if start < prompt_end else 0,
            )
            rows = positions - np.int32(start)
            chunks.append(self.model.forward(step, kv_cache, rows).numpy().copy())
        return np.concatenate(chunks)


def _add_to_means(batch: Batch, hidden: Rows) -> None:
    """Hand `hidden`, the states of `batch.hidden_rows`, to the sequences that they belong to."""
    start = 0
    for sequence, count in batch.mean_rows:
        assert sequence.mean_hidden is not None
        sequence.mean_hidden.add(hidden[start : start + count])
        start += count
    for sequence in batch.due:
        if sequence.mean_hidden is not None:
            sequence.hidden = sequence.mean_hidden.value()
