"""Run a tiny model over token ids: the shortest path from a checkpoint to logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cierzo.config import BLOCK_SIZE
from cierzo.models.loading import ensure_packed
from cierzo.models.packed_folder import open_packed
from cierzo.models.transformer import StepArrays, Transformer

Float32 = NDArray[np.float32]


def open_transformer(source: Path, tells_prompt_apart: bool | None = None) -> Transformer:
    return Transformer(open_packed(ensure_packed(source)), tells_prompt_apart)


def step_of(
    token_ids: Sequence[int],
    start: int,
    stop: int,
    block_table: NDArray[np.int32],
    is_prompt: bool = True,
) -> StepArrays:
    """Tokens start … stop of one sequence."""
    positions = np.arange(start, stop, dtype=np.int32)
    return StepArrays(
        token_ids=np.array(token_ids[start:stop], np.int32),
        positions=positions,
        slot_mapping=block_table[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE,
        query_starts=np.array([0, stop - start], np.int32),
        context_lens=np.array([stop], np.int32),
        block_tables=block_table[None, :],
        num_prompt_tokens=stop - start if is_prompt else 0,
    )


def logits_of(
    model: Transformer,
    token_ids: Sequence[int],
    chunks: Sequence[int] | None = None,
    num_prompt_tokens: int | None = None,
) -> Float32:
    """float32 [n_tokens, vocab_size]; `chunks` are the lengths of the steps (default: one).

    Tokens from `num_prompt_tokens` on (default: none) are completion tokens; some chunk ends there.
    """
    prompt_end = len(token_ids) if num_prompt_tokens is None else num_prompt_tokens
    num_blocks = -(-len(token_ids) // BLOCK_SIZE)
    kv_cache = model.new_kv_cache(num_blocks)
    block_table = np.arange(num_blocks, dtype=np.int32)[::-1].copy()
    rows, start = [], 0
    for length in chunks or [len(token_ids)]:
        is_prompt = start < prompt_end
        assert not is_prompt or start + length <= prompt_end
        step = step_of(token_ids, start, start + length, block_table, is_prompt)
        every_row = np.arange(length, dtype=np.int32)
        rows.append(model.forward(step, kv_cache, every_row).numpy().copy())
        start += length
    assert start == len(token_ids)
    return np.concatenate(rows)
