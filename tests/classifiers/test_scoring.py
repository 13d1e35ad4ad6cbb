"""Readings to scores: spellings summed, the question's own leaning taken off, heads."""

from __future__ import annotations

import numpy as np
import pytest

from cierzo.classifiers.question import policy_question, topic_question
from cierzo.classifiers.scoring import CONTENT_FREE_TEXTS, Head, Scorer
from cierzo.engine.readout import Reading
from tests.server.scripted import ByteTokenizer

TOPIC = topic_question(["business", "sport", "politics"])


def reading(*logits: float) -> Reading:
    return Reading(None, np.array(logits, np.float32))


def scorer_of(question: object = TOPIC, head: Head | None = None) -> Scorer:
    return Scorer(question, ByteTokenizer(), None, head)  # type: ignore[arg-type]


def test_what_is_read() -> None:
    scorer = scorer_of()
    prompt = scorer.prompt(scorer.text_ids("Hm"))
    assert prompt.readout.pooling is None
    assert bytes(prompt.readout.token_ids) == b"BbSsPp"
    assert len(scorer.content_free_prompts()) == len(CONTENT_FREE_TEXTS)
    assert scorer.prompt([], scorer.full_readout).readout.pooling == "last"


def test_spellings_add_up_and_scores_sum_to_1() -> None:
    scorer = scorer_of()
    scorer.calibrate([reading(0, 0, 0, 0, 0, 0)] * 3)
    scores = scorer.scores(reading(*np.log([1, 2, 1, 1, 3, 2])))
    np.testing.assert_allclose(scores, [0.3, 0.2, 0.5], rtol=1e-6)


def test_calibration_takes_off_what_the_question_favours() -> None:
    scorer = scorer_of()
    leaning = reading(*np.log([10, 10, 1, 1, 1, 1]))
    scorer.calibrate([leaning] * 3)
    np.testing.assert_allclose(scorer.scores(leaning), [1 / 3] * 3, rtol=1e-6)
    assert scorer.scores(reading(*np.log([10, 10, 4, 4, 1, 1]))).argmax() == 1


def test_a_text_without_content_violates_no_policy() -> None:
    scorer = scorer_of(policy_question("Spam."))
    empty = reading(*np.log([5, 5, 1, 1]))
    scorer.calibrate([empty] * 3)
    np.testing.assert_allclose(scorer.scores(empty), [0.05, 0.95], rtol=1e-6)


def test_a_head_reads_the_hidden_state_and_needs_no_calibration() -> None:
    weights = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    scorer = scorer_of(head=Head(weights, np.zeros(3, np.float32)))
    assert scorer.is_calibrated and not scorer_of().is_calibrated
    assert scorer.prompt([]).readout.pooling == "last"
    state = Reading(np.array([np.log(2), np.log(3)], np.float32), np.zeros(6, np.float32))
    np.testing.assert_allclose(scorer.scores(state), [2 / 6, 3 / 6, 1 / 6], rtol=1e-6)


def test_scores_without_calibration_are_our_mistake() -> None:
    with pytest.raises(AssertionError, match="calibrate"):
        scorer_of().scores(reading(0, 0, 0, 0, 0, 0))
