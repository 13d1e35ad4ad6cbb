"""Heads fitted on examples, and what is said of their quality."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from cierzo.classifiers.fitting import fit_head, quality
from cierzo.errors import SettingError


def clusters(
    num_labels: int, each: int, spread: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((num_labels, 12)) * 2 + 5
    label_ids = np.repeat(np.arange(num_labels), each)
    noise = rng.standard_normal((len(label_ids), 12)) * spread
    return (centers[label_ids] + noise).astype(np.float32), label_ids


@pytest.mark.parametrize("num_labels", [2, 4])
def test_a_head_tells_clusters_apart(num_labels: int) -> None:
    hidden, label_ids = clusters(num_labels, 20, 0.5)
    labels = [f"label {i}" for i in range(num_labels)]
    head, held_out = fit_head(hidden, label_ids, labels)
    assert head.weights.shape == (num_labels, 12)
    scores = np.array([head.scores(row) for row in hidden])
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    assert (scores.argmax(axis=1) == label_ids).mean() > 0.95
    assert held_out.accuracy > 0.95
    assert np.sum(held_out.confusion) == len(hidden)


def test_held_out_quality_is_not_that_of_the_fit() -> None:
    """Noise can be learned by heart; what the fit has not seen shows it."""
    rng = np.random.default_rng(1)
    hidden = rng.standard_normal((60, 200)).astype(np.float32)
    label_ids = np.arange(60) % 2
    _, held_out = fit_head(hidden, label_ids, ["a", "b"])
    assert held_out.accuracy < 0.75


def test_the_same_examples_give_the_same_head() -> None:
    hidden, label_ids = clusters(2, 10, 1.0)
    first, second = (fit_head(hidden, label_ids, ["a", "b"])[0] for _ in range(2))
    assert (first.weights == second.weights).all()


def test_too_few_examples() -> None:
    hidden, label_ids = clusters(2, 10, 1.0)
    with pytest.raises(SettingError, match="there are 4 of 'b'"):
        fit_head(hidden[:14], label_ids[:14], ["a", "b"])


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    hidden, label_ids = clusters(2, 10, 1.0)
    with pytest.raises(SettingError, match="pip install"):
        fit_head(hidden, label_ids, ["a", "b"])


def test_quality() -> None:
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    found = quality(scores, np.array([0, 0, 1, 1]))
    assert found.accuracy == 0.75
    assert found.confusion == ((2, 0), (1, 1))
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.6, 0.8, 0.3]).mean())
    assert [count for _, _, count in found.bins] == [1, 1, 1, 1]
    expected = (abs(0.9 - 1) + abs(0.6 - 1) + abs(0.8 - 1) + abs(0.7 - 0)) / 4
    assert found.calibration_error == pytest.approx(expected)
