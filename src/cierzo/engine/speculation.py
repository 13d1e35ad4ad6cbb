"""Speculative decoding: how many guessed tokens are computed beside those that must be.

A step's time grows by little with each row, because all rows share one reading of the weights.
So a guess that is right often enough is worth its row: several tokens come of one step. A guess
never changes a text: every token is drawn as it would have been, and what follows a wrong guess
is thrown away (`sampler.py`). Here it is only decided what pays, from measured step times.
"""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

from cierzo.engine.prompt_lookup import Draft
from cierzo.engine.sequence import Sequence

MAX_DRAFT_TOKENS = 15
"""Most guesses of one sequence in a step."""

PRESUMED_GROWTH = 0.08
"""What a row is taken to cost, as a share of a step of one row, until it was measured."""

LEAST_GAIN = 1.03
"""Tokens a second with guesses over those without, for guesses to be worth their trouble."""

MEMORY = 0.98
"""How much of the earlier steps' weight is left after each step: some fifty steps count."""

NUM_STEPS_REMEMBERED = 300
"""Steps without a guess after which it is tried again what a step with guesses costs."""

LOSS_SHARE = 0.005
"""The most of all time that guesses may cost where they do not pay."""

FIRST_CREDIT = 1.0
MOST_CREDIT = 10.0
"""What guesses may lose at first, and what they may put by, in steps without guesses."""

NUM_STEPS_UNCHECKED = 64
"""Steps with guesses after which one without tells what that takes now."""

LEAST_VARIANCE = 0.25
"""Of the steps' rows, to tell what a row costs."""

LONGEST = 3.0
"""A step counts as at most this much longer than expected."""


class Drafter(Protocol):
    """Where guesses come from: the sequence's own past (`PromptLookup`), or a smaller model."""

    def draft(self, sequence: Sequence, least_chance: float, max_tokens: int) -> Draft: ...


class Speculator:
    """Chooses each step's drafts so that the most tokens come in the least time."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._regimes: dict[int, Regime] = {}  # by the number of sequences, doubling
        self._planning_s = 0.0  # of the step under way

    def plan(self, sequences: list[Sequence], num_rows: int, room: int) -> dict[Sequence, Draft]:
        """Drafts for some of `sequences`, in a step that computes `num_rows` rows without them and
        has room for `room` more. To be asked before every step, also one without sequences."""
        self._planning_s = 0.0
        regime = self._regime(num_rows)
        if not regime.may_guess:
            return {}
        started_s = perf_counter()
        drafts = self._choose(regime, sequences, num_rows, room)
        self._planning_s = perf_counter() - started_s
        regime.charge(num_rows, self._planning_s)
        return drafts

    def _choose(
        self, regime: Regime, sequences: list[Sequence], num_rows: int, room: int
    ) -> dict[Sequence, Draft]:
        cost = regime.guessed if regime.guessed.is_known else regime.plain
        rate = num_rows / regime.plain.of(num_rows)  # tokens a second
        least_chance = cost.row_s * rate
        if least_chance >= 1:
            return {}
        drafts = {s: draft for s in sequences if (draft := self._draft(s, least_chance)).token_ids}
        if not drafts:
            return {}
        rows = [(chance, s) for s, draft in drafts.items() for chance in draft.chances]
        rows.sort(key=lambda row: -row[0])
        lengths = dict.fromkeys(drafts, 0)
        expected, step_s = float(num_rows), cost.of(num_rows)
        for chance, sequence in rows[:room]:
            if chance * step_s < cost.row_s * expected:  # fewer tokens a second with it
                break
            expected, step_s = expected + chance, step_s + cost.row_s
            lengths[sequence] += 1
        if expected < LEAST_GAIN * rate * step_s:
            return {}
        return {
            s: Draft(drafts[s].token_ids[:length], drafts[s].chances[:length])
            for s, length in lengths.items()
            if length > 0
        }

    def observe(self, num_rows: int, num_guessed: int, num_right: int, step_s: float) -> None:
        """Take note of a step of completion tokens only, `num_guessed` of them guesses, of which
        `num_right` were right."""
        regime = self._regime(num_rows - num_guessed)
        regime.observe(num_rows, num_guessed, num_right, step_s - self._planning_s)

    def _regime(self, num_sequences: int) -> Regime:
        return self._regimes.setdefault(num_sequences.bit_length(), Regime())

    def _draft(self, sequence: Sequence, least_chance: float) -> Draft:
        """What may follow, without the end and what would come behind it."""
        left = sequence.max_completion_tokens - sequence.num_completion_tokens
        # The last token that may come, and one that ends the text, are drawn but never computed.
        draft = self._drafter.draft(sequence, least_chance, min(left - 1, MAX_DRAFT_TOKENS))
        if sequence.request.stop_token_ids.isdisjoint(draft.token_ids):
            return draft
        stop = sequence.request.stop_token_ids
        end = next(i for i, token_id in enumerate(draft.token_ids) if token_id in stop)
        return Draft(draft.token_ids[:end], draft.chances[:end])


class Regime:
    """Steps of about as many sequences: what they take with and without guesses, and whether
    guesses have paid.

    `credit` is the time that guesses have saved, and that they may still lose, in steps without
    guesses. Each step adds its `LOSS_SHARE`, and guesses are made while there is any. So they
    cost no more than that share in the long run, however wrong all expectations are.
    """

    def __init__(self) -> None:
        self.plain = StepCost()  # of steps without guesses; they may take another path
        self.guessed = StepCost()
        self.credit = FIRST_CREDIT
        self._num_plain = 0  # steps since the last with a guess
        self._num_guessed = 0  # steps since the last without

    @property
    def may_guess(self) -> bool:
        is_checked = self._num_guessed < NUM_STEPS_UNCHECKED
        return self.plain.is_known and is_checked and self.credit > 0

    def charge(self, num_sequences: int, planning_s: float) -> None:
        """Set off what it took to look for guesses, in a step of so many sequences."""
        self.credit -= min(planning_s / self.plain.of(num_sequences), LONGEST)

    def observe(self, num_rows: int, num_guessed: int, num_right: int, step_s: float) -> None:
        """Take note of a step of `num_rows` rows, guesses among them. `step_s` is without the
        time that it took to look for them."""
        self.credit = min(self.credit + LOSS_SHARE, MOST_CREDIT)
        if num_guessed == 0:
            self._num_guessed = 0
            self._num_plain += 1
            self.plain.observe(num_rows, step_s)
            if self._num_plain == NUM_STEPS_REMEMBERED:
                self.guessed = StepCost()
            return
        self._num_plain = 0
        self._num_guessed += 1
        self.guessed.observe(num_rows, step_s)
        if self.plain.is_known:
            num_sequences = num_rows - num_guessed
            took = step_s / self.plain.of(num_sequences)
            self.credit += (num_sequences + num_right) / num_sequences - min(took, LONGEST)


class StepCost:
    """A line through the times of late steps over their rows."""

    def __init__(self) -> None:
        self.row_s = 0.0  # what one more row costs
        self._weight = 0.0  # of all steps so far, each of which once weighed 1
        self._mean_rows = 1.0
        self._mean_s = 0.0
        self._variance = 0.0  # of the rows
        self._covariance = 0.0

    @property
    def is_known(self) -> bool:
        return self._mean_s > 0

    def of(self, num_rows: int) -> float:
        return self._mean_s + self.row_s * (num_rows - self._mean_rows)

    def observe(self, num_rows: int, step_s: float) -> None:
        if self._weight > 1:  # what takes far longer than it should was interrupted
            step_s = min(step_s, LONGEST * self.of(num_rows))
        self._weight = MEMORY * self._weight + 1
        share = 1 / self._weight
        more_rows, more_s = num_rows - self._mean_rows, step_s - self._mean_s
        self._mean_rows += share * more_rows
        self._mean_s += share * more_s
        self._variance += share * ((1 - share) * more_rows * more_rows - self._variance)
        self._covariance += share * ((1 - share) * more_rows * more_s - self._covariance)
        if self._variance >= LEAST_VARIANCE:
            slope = self._covariance / self._variance
            self.row_s = min(max(slope, 0.0), self._mean_s / self._mean_rows)
        else:
            self.row_s = self._mean_s / (1 / PRESUMED_GROWTH + self._mean_rows - 1)
