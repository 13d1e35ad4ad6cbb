"""From labelled examples to a head and a report of how well it does on examples it has not seen.

Every example's answer in the report comes from a fit without it (cross-validation); the head
that is kept is fitted on all. Needs scikit-learn, and nothing else of Cierzo does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cierzo.classifiers.definition import Quality
from cierzo.classifiers.scoring import Head
from cierzo.errors import SettingError

NUM_FOLDS = 5
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse strengths of the penalty to choose from: a hidden state has more numbers than there are
examples."""

NUM_BINS = 10


def fit_head(
    hidden: NDArray[np.float32], label_ids: NDArray[np.int64], labels: Sequence[str]
) -> tuple[Head, Quality]:
    """A head for states `hidden` [examples, dim] of labels `label_ids` [examples].

    Raises SettingError for a label with too few examples, or without scikit-learn.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise SettingError(
            "fitting a head needs scikit-learn: pip install 'cierzo[classifiers]', or create the "
            "classifier with --zero-shot"
        ) from None
    _check_examples(label_ids, labels)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": STRENGTHS},
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
        scoring="neg_log_loss",
    )
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0)
    held_out = cross_val_predict(search, hidden, label_ids, cv=folds, method="predict_proba")
    search.fit(hidden, label_ids)
    return _as_head(search.best_estimator_, len(labels)), quality(held_out, label_ids)


def quality(scores: NDArray[np.float64], label_ids: NDArray[np.int64]) -> Quality:
    """How `scores` [examples, labels] compare with the true labels."""
    num_labels = scores.shape[1]
    given = scores.argmax(axis=1)
    confusion = np.zeros((num_labels, num_labels), np.int64)
    np.add.at(confusion, (label_ids, given), 1)
    is_right, sureness = given == label_ids, scores.max(axis=1)
    of_truth = np.maximum(scores[np.arange(len(scores)), label_ids], 1e-12)
    bins = []
    bin_ids = np.minimum((sureness * NUM_BINS).astype(int), NUM_BINS - 1)
    for bin_id in range(NUM_BINS):
        chosen = bin_ids == bin_id
        if chosen.any():
            sure, right = float(sureness[chosen].mean()), float(is_right[chosen].mean())
            bins.append((sure, right, int(chosen.sum())))
    distance = sum(abs(sure - right) * count for sure, right, count in bins)
    return Quality(
        accuracy=float(is_right.mean()),
        log_loss=float(-np.log(of_truth).mean()),
        calibration_error=distance / len(scores),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        bins=tuple(bins),
    )


def _check_examples(label_ids: NDArray[np.int64], labels: Sequence[str]) -> None:
    counts = Counter(label_ids.tolist())
    for label_id, label in enumerate(labels):
        if counts[label_id] < NUM_FOLDS:
            raise SettingError(
                f"a head needs {NUM_FOLDS} examples of each label or more, and there are "
                f"{counts[label_id]} of {label!r}; add some, or use --zero-shot"
            )


def _as_head(pipeline: Any, num_labels: int) -> Head:
    """The scaler and the regression as one linear layer, with a row for every label."""
    scaler, regression = pipeline[0], pipeline[-1]
    weights, bias = regression.coef_, regression.intercept_
    if num_labels == 2:  # one row says how far the second label is ahead
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    weights = weights / scaler.scale_
    bias = bias - weights @ scaler.mean_
    return Head(weights.astype(np.float32), bias.astype(np.float32))
