"""A question about a text, and the prompts that ask it: the same tokens in front of every text.

Score, do not generate: the answer is read off the logits of the labels' first tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from cierzo.errors import SettingError
from cierzo.tokenizer.tokenizer import Tokenizer, encode_whole

Render = Callable[[str], Sequence[int]]
"""A user's message to the prompt's token ids, in the model's chat format."""

POLICY_LABELS = ("yes", "no")

_MARKS = ("\ue000", "\ue001\ue000", "⟦⟧")
"""Stand in for the text while a question is rendered; the first that keeps its tokens apart."""


@dataclass(frozen=True, slots=True)
class Question:
    """`instruction` says what is asked about a text, `labels` are the answers to choose from."""

    instruction: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.labels) < 2:
            raise SettingError(f"a classifier chooses among two labels or more, not {self.labels}")
        if len(set(self.labels)) < len(self.labels) or not all(map(str.strip, self.labels)):
            raise SettingError(f"labels must be different and not empty; got {list(self.labels)}")


def topic_question(labels: Sequence[str], instruction: str | None = None) -> Question:
    """Which of `labels` fits a text."""
    return Question(instruction or "Which label fits the text below?", tuple(labels))


def policy_question(policy: str) -> Question:
    """Whether a text falls under `policy`, a description of what it covers."""
    return Question(
        f"Does the text below fall under this description? {policy.strip()}", POLICY_LABELS
    )


class QuestionPrompt:
    """A question in one model's tokens. `answer_ids[l]` are the first tokens of label l's
    spellings, no token standing for two labels."""

    def __init__(self, question: Question, tokenizer: Tokenizer, render: Render | None) -> None:
        """`render` is None for a model without a chat format, which goes on from plain text."""
        self._tokenizer = tokenizer
        answers = question.labels
        listed = ", ".join(answers)
        self.answer_ids = _answer_ids(answers, tokenizer)
        if not _are_disjoint(self.answer_ids):
            answers = _letters(question.labels)
            listed = "; ".join(map("{}: {}".format, answers, question.labels))
            self.answer_ids = _answer_ids(answers, tokenizer)
        ask = f"{question.instruction}\nAnswer with one of: {listed}.\n\nText:"
        self._before, self._after = _around_text(ask, tokenizer, render)

    def token_ids(self, text_ids: Sequence[int]) -> tuple[int, ...]:
        """The whole prompt around a text's own tokens (`text_ids`)."""
        return (*self._before, *text_ids, *self._after)


def text_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """A text's tokens behind a question; with the one space in front that separates it."""
    return tokenizer.encode(text if tokenizer.adds_space_prefix else " " + text)


def _letters(labels: Sequence[str]) -> tuple[str, ...]:
    if len(labels) > len(ascii_uppercase):
        raise SettingError(
            f"{len(labels)} labels, of which some begin alike, need a letter each, and there are "
            f"{len(ascii_uppercase)}; rename labels so that their first words differ"
        )
    return tuple(ascii_uppercase[: len(labels)])


def _answer_ids(answers: Sequence[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """First tokens of each answer as a model may begin it: capitalised or not, spaced or not."""
    all_ids = []
    for answer in answers:
        spellings = [answer, answer[:1].upper() + answer[1:]]
        if not tokenizer.adds_space_prefix:
            spellings += [" " + spelling for spelling in spellings]
        firsts = {tokenizer.encode(spelling)[0] for spelling in spellings}
        wordy = {token for token in firsts if tokenizer.token_bytes(token).strip()}
        all_ids.append(tuple(sorted(wordy or firsts)))
    return tuple(all_ids)


def _are_disjoint(answer_ids: Sequence[Sequence[int]]) -> bool:
    return len({i for ids in answer_ids for i in ids}) == sum(map(len, answer_ids))


def _around_text(
    ask: str, tokenizer: Tokenizer, render: Render | None
) -> tuple[list[int], list[int]]:
    """The tokens before and behind the text that follows `ask`."""
    for mark in _MARKS:
        if render is not None:
            ids = list(render(ask + mark))
        else:
            ids = encode_whole(tokenizer, f"{ask}{mark}\n\nAnswer:")
        if (parts := _split_at(mark.encode(), ids, tokenizer)) is not None:
            return parts
    raise SettingError("this model's chat format merges a text with what stands around it")


def _split_at(
    mark: bytes, ids: list[int], tokenizer: Tokenizer
) -> tuple[list[int], list[int]] | None:
    """`ids` before and after the tokens that spell `mark`, or None when one is shared."""
    ends = []
    spelled = b""
    for token_id in ids:
        spelled += tokenizer.token_bytes(token_id)
        ends.append(len(spelled))
    start = spelled.rfind(mark)
    starts = [0, *ends[:-1]]
    inside = [at for at, end in enumerate(ends) if starts[at] < start + len(mark) and end > start]
    if start < 0 or starts[inside[0]] != start or ends[inside[-1]] != start + len(mark):
        return None
    return ids[: inside[0]], ids[inside[-1] + 1 :]
