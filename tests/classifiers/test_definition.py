"""Classifiers on disk: what is written is read, what is damaged is named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cierzo.classifiers.definition import Classifier, ClassifierFolder, Quality, Report
from cierzo.classifiers.question import policy_question, topic_question
from cierzo.classifiers.scoring import Head
from cierzo.errors import ModelFileError, ModelNotFoundError, SettingError

QUALITY = Quality(0.75, 0.6, 0.1, ((3, 1), (1, 3)), ((0.8, 0.75, 8),))
PLAIN = Classifier("topic", "tiny", topic_question(["a", "b"]))
FITTED = Classifier(
    "spam",
    "tiny",
    policy_question("Spam."),
    Head(np.arange(6, dtype=np.float32).reshape(2, 3), np.array([0.5, -0.5], np.float32)),
    Report(8, QUALITY, QUALITY),
)


def test_written_is_read(tmp_path: Path) -> None:
    folder = ClassifierFolder(tmp_path)
    assert folder.names() == [] and folder.find("topic", "w") is None
    for classifier in (PLAIN, FITTED):
        folder.save(classifier)
    assert folder.names() == ["spam", "topic"]
    assert folder.get("topic") == PLAIN
    found = ClassifierFolder(tmp_path).get("spam")
    assert found.head is not None and FITTED.head is not None
    assert (found.head.weights == FITTED.head.weights).all()
    assert (found.head.bias == FITTED.head.bias).all()
    assert (found.report, found.question, found.is_policy) == (FITTED.report, FITTED.question, True)
    assert not folder.get("topic").is_policy


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    folder = ClassifierFolder(tmp_path)
    folder.save(PLAIN)
    assert folder.find("topic", "w") is folder.find("topic", "w")
    folder.save(Classifier("topic", "other", topic_question(["c", "d"])))
    os.utime(tmp_path / "classifiers" / "topic.json", ns=(1, 1))
    assert folder.get("topic").model == "other"
    folder.remove("topic")
    assert folder.find("topic", "w") is None
    with pytest.raises(ModelNotFoundError, match="there are: none"):
        folder.remove("topic")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a" * 65, "ü"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    folder = ClassifierFolder(tmp_path)
    with pytest.raises(SettingError, match="letters, digits"):
        folder.save(Classifier(name, "tiny", PLAIN.question))
    assert folder.find(name, "w") is None


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["one"]},
        {"labels": None},
        {"head": {"weights": "AAAA", "bias": "AAAA"}},
        {"head": {"weights": "?", "bias": ""}},
        {"head": []},
        {"report": {"num_examples": 1}},
        {"report": "good"},
    ],
)
def test_damage_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    folder = ClassifierFolder(tmp_path)
    folder.save(FITTED)
    path = tmp_path / "classifiers" / "spam.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelFileError, match="spam.json is not a classifier"):
        ClassifierFolder(tmp_path).get("spam")
    path.write_text("{")
    with pytest.raises(ModelFileError, match="spam.json"):
        ClassifierFolder(tmp_path).get("spam")
