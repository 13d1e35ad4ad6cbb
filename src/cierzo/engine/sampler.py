"""Logits to tokens: penalties, grammar masks, temperature, nucleus, and logprobs on request.

A draw depends on the request's seed, the sequence's index and the token's position alone, so
the same seed gives the same text in any batch and after any preemption. V is the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cierzo import kernels
from cierzo.engine.batch import Batch
from cierzo.engine.readout import Reading
from cierzo.engine.request import TokenLogprob
from cierzo.engine.sequence import Sequence
from cierzo.errors import GrammarError
from cierzo.kernels import Tensor

Logits = NDArray[np.float32]
Row = tuple[Sequence, int]
"""A row of logits: whose, and behind how many tokens of its draft."""

_LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Sample:
    """A sequence's next token. `is_last`: its grammar is complete. `error`: it could not go on.
    `reading`: what its request asked for in place of a token."""

    token_id: int = -1
    logprob: TokenLogprob | None = None
    is_last: bool = False
    error: str | None = None
    reading: Reading | None = None


class Sampler:
    """Stateless but for the constraints, which advance with the tokens they let through."""

    def sample(self, batch: Batch, logits: Tensor) -> list[list[Sample]]:
        """What each sequence of `batch.due` says next, from its rows of `logits`, which are
        changed: one token, and one more for every token of its draft that was what it said.

        Also fills in the prompt logprobs whose rows follow.
        """
        if not batch.prompt_rows and all(_is_plain(s) for s in batch.due):
            token_ids: list[int] = kernels.argmax(logits).tolist() if batch.due else []
            return [[Sample(token_id)] for token_id in token_ids]
        rows = [(s, ahead) for s in batch.due for ahead in range(1 + s.num_draft_tokens)]
        reports, readings = _reports(batch, logits, rows), _readings(rows, logits)
        errors: dict[int, str] = {}
        row = 0
        for sequence in batch.due:
            if sequence.edits_logits:
                errors |= _edit_rows(logits, row, sequence)
            row += 1 + sequence.num_draft_tokens
        drawn, said, row = _draw(rows, logits), [], 0
        for sequence in batch.due:
            samples: list[Sample] = []
            for ahead, guess in enumerate([*sequence.draft_token_ids.tolist(), None]):
                token_id, error, is_last = drawn[row + ahead], errors.get(row + ahead), False
                if error is None and sequence.constraint is not None:
                    error, is_last = _advance(sequence, token_id)
                report = reports.get(row + ahead)
                logprob = None if report is None else report.of(token_id)
                reading = readings.get(row + ahead)
                samples.append(Sample(token_id, logprob, is_last, error, reading))
                if token_id != guess or error is not None or is_last:
                    break  # what was computed behind a wrong guess means nothing
            said.append(samples)
            row += 1 + sequence.num_draft_tokens
        return said


def _is_plain(sequence: Sequence) -> bool:
    """True where the next token is its row's largest logit, and nothing else is asked for."""
    return (
        sequence.params.temperature == 0
        and sequence.params.logprobs is None
        and sequence.num_draft_tokens == 0
        and sequence.request.readout is None
        and not sequence.edits_logits
    )


class Report:
    """The unmodified distribution of one row, kept until its token is known."""

    def __init__(self, logits: Tensor, row: int, log_sum: float, num_top: int) -> None:
        self._values = logits.numpy()[row].copy()
        self._log_sum = log_sum
        self._top: tuple[tuple[int, float], ...] = ()
        if num_top > 0:
            ids, values = kernels.top_k(logits, row, min(num_top, logits.cols))
            self._top = tuple(
                (token_id, value - self._log_sum)
                for token_id, value in zip(ids.tolist(), values.tolist(), strict=True)
            )

    def of(self, token_id: int) -> TokenLogprob:
        return TokenLogprob(token_id, float(self._values[token_id]) - self._log_sum, self._top)


def uniform_draws(
    seeds: NDArray[np.uint64], indices: NDArray[np.uint64], positions: NDArray[np.uint64]
) -> NDArray[np.float64]:
    """One number in [0, 1) for each (seed, sequence index, position): SplitMix64, chained."""
    bits = _mix(_mix(_mix(seeds) + indices) + positions)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _draw(rows: list[Row], logits: Tensor) -> list[int]:
    """One token id per row; logits behind these are drawn from greedily and mean nothing."""
    if all(s.params.temperature == 0 for s, _ in rows):
        greedy: list[int] = kernels.argmax(logits).tolist() if rows else []
        return greedy[: len(rows)]
    temperature = np.zeros(logits.rows, np.float32)
    top_k = np.zeros(logits.rows, np.int32)
    top_p = np.ones(logits.rows, np.float32)
    uniform = np.zeros(logits.rows, np.float64)
    num_rows = len(rows)
    # Numbers that float32 would round to infinity or zero stay the extremes they mean.
    temperature[:num_rows] = [min(s.params.temperature, _LARGEST) for s, _ in rows]
    top_k[:num_rows] = [min(s.params.top_k, logits.cols) for s, _ in rows]
    top_p[:num_rows] = [max(s.params.top_p, _SMALLEST) for s, _ in rows]
    uniform[:num_rows] = uniform_draws(
        np.array([s.seed for s, _ in rows], np.uint64),
        np.array([s.index for s, _ in rows], np.uint64),
        np.array([s.num_tokens + ahead for s, ahead in rows], np.uint64),
    )
    drawn: list[int] = kernels.sample(logits, temperature, top_k, top_p, uniform).tolist()
    return drawn[:num_rows]


def _edit_rows(logits: Tensor, first_row: int, sequence: Sequence) -> dict[int, str]:
    """Make a sequence's rows choose as it wants: row `first_row` + i as if the first i tokens of
    its draft had come. Returns what went wrong in the grammar, by row."""
    constraint = sequence.constraint
    draft: list[int] = sequence.draft_token_ids.tolist()
    for ahead in range(1 + len(draft)):
        row = first_row + ahead
        _edit(logits, row, sequence, ahead)
        if constraint is None:
            continue
        try:
            if ahead > 0:
                constraint = constraint if ahead > 1 else constraint.fork()
                constraint.accept(draft[ahead - 1])
                if constraint.is_finished():
                    break
            mask = constraint.allowed_tokens()
            if not mask.any():
                raise GrammarError("the grammar allows no token here; simplify the schema")
            kernels.apply_mask(logits, row, mask)
        except Exception as error:  # a faulty constraint ends its own request, not the step
            return {row: f"the grammar failed: {error}"}
        if ahead < len(draft) and not _allows(mask, draft[ahead]):
            break  # so this guess is wrong, and nothing behind it counts
    return {}


def _allows(mask: NDArray[np.uint32], token_id: int) -> bool:
    return bool(mask[token_id // 32] >> np.uint32(token_id % 32) & 1)


def _edit(logits: Tensor, row: int, sequence: Sequence, ahead: int) -> None:
    """Penalties, then `min_tokens`."""
    values, params = logits.numpy()[row], sequence.params
    if params.has_penalties:
        apply_penalties(values, sequence, ahead)
    if sequence.num_completion_tokens + ahead < params.min_tokens:
        values[list(sequence.request.stop_token_ids)] = -np.inf


def apply_penalties(values: Logits, sequence: Sequence, ahead: int = 0) -> None:
    """Repetition over prompt and completion, frequency and presence over the completion, in place.

    `values` [V] are one row's logits, `ahead` the tokens of the draft that count as said.
    """
    params, token_ids = sequence.params, sequence.with_draft(ahead)
    if params.repetition_penalty != 1.0:
        has_occurred = np.zeros(len(values), np.bool_)
        has_occurred[token_ids] = True
        ids = np.flatnonzero(has_occurred)
        scores, penalty = values[ids], np.float32(params.repetition_penalty)
        values[ids] = np.where(scores > 0, scores / penalty, scores * penalty)
    if params.frequency_penalty != 0.0 or params.presence_penalty != 0.0:
        completion = token_ids[sequence.num_prompt_tokens :]
        ids, counts = np.unique(completion, return_counts=True)
        values[ids] -= counts.astype(np.float32) * np.float32(params.frequency_penalty)
        values[ids] -= np.float32(params.presence_penalty)


def _advance(sequence: Sequence, token_id: int) -> tuple[str | None, bool]:
    """Tell the constraint of its token. Returns (what went wrong, whether the text is complete)."""
    constraint = sequence.constraint
    assert constraint is not None
    if token_id in sequence.request.stop_token_ids:
        return None, False
    try:
        constraint.accept(token_id)
        return None, constraint.is_finished()
    except Exception as error:  # as in `_edit_rows`
        return f"the grammar failed: {error}", False


def _readings(rows: list[Row], logits: Tensor) -> dict[int, Reading]:
    """What the due rows' readouts asked for, by row."""
    return {
        row: Reading(sequence.hidden, logits.numpy()[row][list(readout.token_ids)])
        for row, (sequence, _) in enumerate(rows)
        if (readout := sequence.request.readout) is not None
    }


def _reports(batch: Batch, logits: Tensor, rows: list[Row]) -> dict[int, Report]:
    """The due rows' reports, where asked for. Fills in the prompt logprobs on the way."""
    asked = {i: num for i, (s, _) in enumerate(rows) if (num := s.params.logprobs) is not None}
    if not asked and not batch.prompt_rows:
        return {}
    log_sums: list[float] = kernels.logsumexp(logits).tolist()
    row = len(rows)
    for sequence, count in batch.prompt_rows:
        num_top = sequence.params.prompt_logprobs
        assert num_top is not None
        for _ in range(count):
            token_id = int(sequence.token_ids[len(sequence.prompt_logprobs)])
            report = Report(logits, row, log_sums[row], num_top)
            sequence.prompt_logprobs.append(report.of(token_id))
            row += 1
    return {row: Report(logits, row, log_sums[row], num) for row, num in asked.items()}
