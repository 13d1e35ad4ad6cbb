"""One step's work as arrays: which tokens of which sequences, and which logits are due.

S sequences, T tokens, R logits rows. Built with NumPy per sequence, never per token.
Knows nothing of policy (that is `scheduler.py`) or of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from cierzo.config import BLOCK_SIZE
from cierzo.engine.sequence import Sequence
from cierzo.models.transformer import StepArrays

Int32 = NDArray[np.int32]
_NO_ROWS = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class Batch:
    """`scheduled` pairs each sequence with its token count in this step.

    The first rows of the logits choose the next tokens of `due`, in its order: one row for each
    sequence's next token, then one for each that comes behind a token of its draft. The rows after
    these serve prompt logprobs: for each (sequence, count) of `prompt_rows`, `count` rows.
    `hidden_rows` are rows whose hidden states are wanted and no logits: those of `mean_rows`,
    in the same way.
    """

    scheduled: list[tuple[Sequence, int]]
    due: list[Sequence]
    prompt_rows: list[tuple[Sequence, int]]
    arrays: StepArrays
    logits_rows: Int32
    mean_rows: list[tuple[Sequence, int]]
    hidden_rows: Int32

    @property
    def pooled(self) -> list[tuple[int, Sequence]]:
        """The due sequences whose last hidden state is wanted, by row."""
        rows = accumulate((1 + s.num_draft_tokens for s in self.due), initial=0)
        return [(row, s) for row, s in zip(rows, self.due, strict=False) if s.pooling == "last"]

    @property
    def num_tokens(self) -> int:
        return len(self.arrays.token_ids)


def build_batch(scheduled: list[tuple[Sequence, int]]) -> Batch:
    """The step that computes the next `count` tokens of each scheduled sequence.

    Each sequence already holds the blocks that its tokens go to. Those that compute prompt tokens
    come first, in the given order.
    """
    scheduled = sorted(scheduled, key=lambda chosen: not chosen[0].is_in_prompt)
    is_decode = all(count == 1 for _, count in scheduled)
    arrays = _single_tokens(scheduled) if is_decode else _chunks(scheduled)
    return _with_wanted_rows(scheduled, arrays)


def _single_tokens(scheduled: list[tuple[Sequence, int]]) -> StepArrays:
    """One token of each: between two steps of a small model NumPy's calls are what takes time."""
    n = len(scheduled)
    token_ids, positions, slots = [], [], []
    for sequence, _ in scheduled:
        position = sequence.num_computed_tokens
        block, offset = divmod(position, BLOCK_SIZE)
        token_ids.append(sequence.token_ids[position])
        positions.append(position)
        slots.append(int(sequence.block_table[block]) * BLOCK_SIZE + offset)
    contexts = [position + 1 for position in positions]
    numbers = np.array([*token_ids, *positions, *slots, *contexts, *range(n + 1)], np.int32)
    return StepArrays(
        token_ids=numbers[:n],
        positions=numbers[n : 2 * n],
        slot_mapping=numbers[2 * n : 3 * n],
        context_lens=numbers[3 * n : 4 * n],
        query_starts=numbers[4 * n :],
        block_tables=_block_tables(scheduled),
        num_prompt_tokens=sum(s.is_in_prompt for s, _ in scheduled),
    )


def _chunks(scheduled: list[tuple[Sequence, int]]) -> StepArrays:
    """The next `count` tokens of each."""
    counts = np.array([count for _, count in scheduled], np.int32)
    num_computed = np.array([s.num_computed_tokens for s, _ in scheduled], np.int32)
    query_starts = np.zeros(len(scheduled) + 1, np.int32)
    np.cumsum(counts, out=query_starts[1:])
    block_tables = _block_tables(scheduled)

    # Sequence s's tokens start at row query_starts[s] and position num_computed[s].
    num_tokens = int(query_starts[-1])
    positions = np.arange(num_tokens, dtype=np.int32)
    positions += np.repeat(num_computed - query_starts[:-1], counts)
    owners = np.repeat(np.arange(len(scheduled)), counts)
    slot_mapping = block_tables[owners, positions // BLOCK_SIZE] * BLOCK_SIZE
    slot_mapping += positions % BLOCK_SIZE
    return StepArrays(
        token_ids=np.concatenate(
            [
                s.with_draft(s.num_draft_tokens)[s.num_computed_tokens :][:count]
                for s, count in scheduled
            ]
        ),
        positions=positions,
        slot_mapping=slot_mapping,
        query_starts=query_starts,
        context_lens=num_computed + counts,
        block_tables=block_tables,
        num_prompt_tokens=sum(count for sequence, count in scheduled if sequence.is_in_prompt),
    )


def _block_tables(scheduled: list[tuple[Sequence, int]]) -> Int32:
    if len(scheduled) == 1:
        return scheduled[0][0].block_table[None]
    tables = np.full((len(scheduled), max(s.num_blocks for s, _ in scheduled)), -1, np.int32)
    for row, (sequence, _) in zip(tables, scheduled, strict=True):
        row[: sequence.num_blocks] = sequence.block_table
    return tables


def _with_wanted_rows(scheduled: list[tuple[Sequence, int]], arrays: StepArrays) -> Batch:
    due: list[Sequence] = []
    due_rows: list[int] = []
    prompt_rows: list[tuple[Sequence, int]] = []
    prompt_logits_rows: list[Int32] = []
    mean_rows: list[tuple[Sequence, int]] = []
    hidden_rows: list[Int32] = []
    starts = arrays.query_starts.tolist()
    for (sequence, count), start, end in zip(scheduled, starts[:-1], starts[1:], strict=True):
        if count >= sequence.num_uncomputed_tokens:
            due.append(sequence)
            due_rows += range(end - 1 - sequence.num_draft_tokens, end)
        if sequence.num_missing_prompt_logprobs > 0:
            # Position p's logits judge token p + 1; what an earlier step judged is not repeated.
            computed = sequence.num_computed_tokens
            first = max(computed, len(sequence.prompt_logprobs) - 1)
            stop = min(computed + count, sequence.num_prompt_tokens - 1)
            if first < stop:
                offset = start - computed
                rows = np.arange(first + offset, stop + offset, dtype=np.int32)
                prompt_rows.append((sequence, len(rows)))
                prompt_logits_rows.append(rows)
        if sequence.mean_hidden is not None:
            # Preempted, it computes some positions again, but none of them counts twice.
            rows = np.arange(start, end, dtype=np.int32)
            rows = rows[max(sequence.mean_hidden.num_tokens - sequence.num_computed_tokens, 0) :]
            mean_rows.append((sequence, len(rows)))
            hidden_rows.append(rows)
    logits_rows = np.array(due_rows, np.int32)
    if prompt_logits_rows:
        logits_rows = np.concatenate([logits_rows, *prompt_logits_rows])
    of_means = np.concatenate(hidden_rows) if hidden_rows else _NO_ROWS
    return Batch(scheduled, due, prompt_rows, arrays, logits_rows, mean_rows, of_means)
