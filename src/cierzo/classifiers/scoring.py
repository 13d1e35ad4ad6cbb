"""Readings to scores: what the answer tokens' logits, or a fitted head, say of the labels.

A language model prefers some labels whatever the text. How much it does shows in texts without
content, and is taken off: that is the calibration of a question without examples
(Zhao et al., "Calibrate before use", arXiv 2102.09690).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cierzo.classifiers.question import POLICY_LABELS, Question, QuestionPrompt, Render, text_ids
from cierzo.engine.readout import Reading, Readout, ReadPrompt
from cierzo.tokenizer.tokenizer import Tokenizer

Scores = NDArray[np.float64]
"""Probabilities of a question's labels, summing to 1."""

CONTENT_FREE_TEXTS = ("N/A", "...", "")

POLICY_PRIOR = (0.05, 0.95)
"""A text without content falls under no policy; this is how sure a calibrated answer is of it."""


@dataclass(frozen=True, slots=True)
class Head:
    """A linear layer over the hidden state, fitted on examples: `weights` [labels, dim],
    `bias` [labels]. It reads the one model that it was fitted on."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    def scores(self, hidden: NDArray[np.float32]) -> Scores:
        return _softmax(self.weights.astype(np.float64) @ hidden + self.bias)


class Scorer:
    """One question put to one model. Without a head it needs `calibrate` before `scores`."""

    def __init__(
        self,
        question: Question,
        tokenizer: Tokenizer,
        render: Render | None,
        head: Head | None = None,
    ) -> None:
        self.question = question
        self._tokenizer = tokenizer
        self._prompt = QuestionPrompt(question, tokenizer, render)
        self._head = head
        self._bias: Scores | None = None
        ids = [i for label_ids in self._prompt.answer_ids for i in label_ids]
        counts = [len(label_ids) for label_ids in self._prompt.answer_ids]
        self._answer_starts = np.cumsum([0, *counts[:-1]])
        # A fit without a head yet reads both.
        self._readout = Readout("last" if head is not None else None, tuple(ids))
        self.full_readout = Readout("last", tuple(ids))

    @property
    def is_calibrated(self) -> bool:
        return self._head is not None or self._bias is not None

    def text_ids(self, text: str) -> list[int]:
        """A text's tokens, the same for every question to this model."""
        return text_ids(text, self._tokenizer)

    def prompt(self, ids: Sequence[int], readout: Readout | None = None) -> ReadPrompt:
        """The question about the text of these tokens."""
        return ReadPrompt(self._prompt.token_ids(ids), readout or self._readout)

    def content_free_prompts(self) -> list[ReadPrompt]:
        """What to read for `calibrate`."""
        return [self.prompt(self.text_ids(text)) for text in CONTENT_FREE_TEXTS]

    def calibrate(self, readings: Sequence[Reading]) -> None:
        """Take the labels' scores for texts without content as what the question itself weighs."""
        favoured = np.mean([self._label_logprobs(reading) for reading in readings], axis=0)
        labels = self.question.labels
        prior = POLICY_PRIOR if labels == POLICY_LABELS else np.full(len(labels), 1 / len(labels))
        self._bias = np.log(prior) - favoured

    def scores(self, reading: Reading) -> Scores:
        """The labels' probabilities for the text that was read."""
        if self._head is not None:
            assert reading.hidden is not None
            return self._head.scores(reading.hidden)
        assert self._bias is not None, "calibrate comes first"
        return _softmax(self._label_logprobs(reading) + self._bias)

    def _label_logprobs(self, reading: Reading) -> Scores:
        """ln p of each label, all spellings together, given that one of them is the answer."""
        values = np.logaddexp.reduceat(reading.logits.astype(np.float64), self._answer_starts)
        logprobs: Scores = values - np.logaddexp.reduce(values)
        return logprobs


def _softmax(values: NDArray[np.float64]) -> Scores:
    powers = np.exp(values - values.max())
    scores: Scores = powers / powers.sum()
    return scores
