"""Guesses what a sequence says next: what followed its last two tokens when they last occurred.

Answers that quote, correct or extract say long stretches of their prompt again, and code and
lists repeat themselves. A guess is free: it is judged by every token that comes, whether anybody
computed with it or not, so that how far to trust it is known beforehand. No model, no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakKeyDictionary

from cierzo.engine.sequence import Sequence

# By the number of right guesses in a row, the last entry for all beyond: which chance holds.
LEVELS = (0, 1, 1, 2, 2, 2, 2, 2, 3)
# That the next guess is right, measured on summaries, extracts, corrections and free text of the
# default model.
CHANCES = (0.52, 0.73, 0.84, 0.97)
LEARNING = 1 / 12
"""How far each guess moves its sequence's own idea of these chances."""
LEARNING_OF_ALL = 1 / 200
"""How far it moves what later sequences begin with: requests of one service are alike."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may follow a sequence. `chances[i]`: how likely the first i + 1 all do."""

    token_ids: list[int]
    chances: list[float]


_NO_DRAFT = Draft([], [])


class PromptLookup:
    """Drafts for any number of sequences, which it follows for as long as they live."""

    def __init__(self) -> None:
        self._histories: WeakKeyDictionary[Sequence, _History] = WeakKeyDictionary()
        self._chances = list(CHANCES)

    def draft(self, sequence: Sequence, least_chance: float, max_tokens: int) -> Draft:
        """What may follow `sequence`, as far as all of it together has `least_chance`."""
        history = self._histories.get(sequence)
        if history is None:
            history = self._histories[sequence] = _History(
                sequence.token_ids.tolist(), self._chances
            )
        else:
            history.follow(sequence.tokens_from(len(history.token_ids)))
        return history.draft(least_chance, max_tokens)


class _History:
    """One sequence's tokens, and where among them it may be saying something again."""

    def __init__(self, token_ids: list[int], chances_of_all: list[float]) -> None:
        self.token_ids = token_ids
        *earlier, last = pairwise(token_ids) if len(token_ids) > 1 else [(-1, -1)]
        # Two tokens → the position behind them, where they occurred last.
        self._after = {pair: position for position, pair in enumerate(earlier, start=2)}
        self._next = self._after.get(last)  # the position whose token is guessed to come now
        self._after[last] = len(token_ids)
        self._num_right = 0  # guesses in a row
        self._chances = list(chances_of_all)
        self._chances_of_all = chances_of_all

    def follow(self, token_ids: list[int]) -> None:
        """Take in the tokens that came, and judge what was guessed instead."""
        known, after = self.token_ids, self._after
        for token_id in token_ids:
            if self._next is not None:
                self._judge(known[self._next] == token_id)
            last = known[-1], token_id
            known.append(token_id)
            if self._next is None:
                self._next = after.get(last)
            after[last] = len(known)

    def _judge(self, is_right: bool) -> None:
        assert self._next is not None
        level, own, of_all = _level(self._num_right), self._chances, self._chances_of_all
        own[level] += LEARNING * (is_right - own[level])
        of_all[level] += LEARNING_OF_ALL * (is_right - of_all[level])
        self._num_right = self._num_right + 1 if is_right else 0
        self._next = self._next + 1 if is_right else None

    def draft(self, least_chance: float, max_tokens: int) -> Draft:
        if self._next is None:
            return _NO_DRAFT
        draft = Draft([], [])
        known, chance = self.token_ids, 1.0
        period = len(known) - self._next  # what it repeats may reach into what it will say
        for i in range(max_tokens):
            chance *= self._chances[_level(self._num_right + i)]
            if chance < least_chance:
                break
            draft.token_ids.append(known[self._next + i % period])
            draft.chances.append(chance)
        return draft


def _level(num_right: int) -> int:
    return LEVELS[num_right] if num_right < len(LEVELS) else LEVELS[-1]
