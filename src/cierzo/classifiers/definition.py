"""A named classifier: its question, the head and the report of a fit; one JSON file each.

    <data>/classifiers/<name>.json                   shared by all workspaces
    <data>/classifiers/<workspace id>/<name>.json    one workspace's own

Files are replaced whole, so a reader sees the old one or the new one. Knows nothing of models
but the name of the one it was made for.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cierzo.classifiers.question import POLICY_LABELS, Question
from cierzo.classifiers.scoring import Head
from cierzo.errors import ModelFileError, ModelNotFoundError, SettingError

FOLDER = "classifiers"
"""Of the data folder; a backup takes it along."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


@dataclass(frozen=True, slots=True)
class Quality:
    """How answers to examples that the fit had not seen compare with their labels.

    `confusion[i][j]` counts examples of label i that were given label j. `log_loss` is in nats.
    `calibration_error` is the mean distance between how sure answers were and how often they
    were right, over `bins` of (how sure on average, share right, how many).
    """

    accuracy: float
    log_loss: float
    calibration_error: float
    confusion: tuple[tuple[int, ...], ...]
    bins: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What examples say: of the question alone, and of the head where one was fitted."""

    num_examples: int
    question: Quality
    head: Quality | None


@dataclass(frozen=True, slots=True)
class Classifier:
    """`model` is what the server calls the model that answers."""

    name: str
    model: str
    question: Question
    head: Head | None = None
    report: Report | None = None

    @property
    def is_policy(self) -> bool:
        """True for a yes-or-no question, whose "yes" is a violation."""
        return self.question.labels == POLICY_LABELS


class ClassifierFolder:
    """The classifiers kept under a data folder. An `owner` is a workspace's id, None: shared."""

    def __init__(self, data: Path) -> None:
        self._folder = data / FOLDER
        self._read: dict[Path, tuple[int, Classifier]] = {}

    def owners(self) -> list[str | None]:
        """Who may have some: nobody, then each workspace."""
        return [None, *sorted(path.name for path in self._folder.glob("*") if path.is_dir())]

    def names(self, owner: str | None = None) -> list[str]:
        """Those that are the owner's, not those shared with it."""
        return sorted(path.stem for path in self._of(owner).glob("*.json"))

    def names_for(self, workspace_id: str) -> list[str]:
        """All that a workspace may use."""
        return sorted({*self.names(), *self.names(workspace_id)})

    def find(self, name: str, workspace_id: str) -> Classifier | None:
        """What a workspace calls so: its own, or else the shared one, as it is on the disk now.

        Raises ModelFileError.
        """
        return self._find(name, workspace_id) or self._find(name, None)

    def get(self, name: str, owner: str | None = None) -> Classifier:
        """The owner's classifier. Raises ModelNotFoundError where there is none, ModelFileError."""
        found = self._find(name, owner)
        if found is None:
            there = ", ".join(self.names(owner)) or "none"
            whose = "" if owner is None else "of this workspace "
            raise ModelNotFoundError(f"no classifier {name!r}; {whose}there are: {there}")
        return found

    def check(self, classifier: Classifier) -> None:
        """Raise SettingError for a name that cannot be a file's or an API's."""
        if not re.fullmatch(NAME_PATTERN, classifier.name):
            raise SettingError(
                f"a classifier's name has letters, digits, '.', '_' and '-', at most 64, and "
                f"begins with a letter or digit; got {classifier.name!r}"
            )

    def save(self, classifier: Classifier, owner: str | None = None) -> None:
        """Write it, in place of any of that name of the owner's. Raises as `check`."""
        self.check(classifier)
        path = self._path(classifier.name, owner)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(_to_json(classifier), indent=2, ensure_ascii=False) + "\n")
        part.replace(path)

    def remove(self, name: str, owner: str | None = None) -> None:
        """Raises as `get`."""
        self.get(name, owner)
        self._path(name, owner).unlink()

    def _find(self, name: str, owner: str | None) -> Classifier | None:
        if not re.fullmatch(NAME_PATTERN, name):
            return None
        path = self._path(name, owner)
        try:
            changed_ns = path.stat().st_mtime_ns
        except OSError:
            return None
        known = self._read.get(path)
        if known is None or known[0] != changed_ns:
            known = self._read[path] = (changed_ns, _from_file(path))
        return known[1]

    def _of(self, owner: str | None) -> Path:
        return self._folder if owner is None else self._folder / owner

    def _path(self, name: str, owner: str | None) -> Path:
        return self._of(owner) / f"{name}.json"


def _to_json(classifier: Classifier) -> dict[str, Any]:
    head = classifier.head
    return {
        "name": classifier.name,
        "model": classifier.model,
        "instruction": classifier.question.instruction,
        "labels": list(classifier.question.labels),
        "head": head and {"weights": _text(head.weights), "bias": _text(head.bias)},
        "report": None if classifier.report is None else asdict(classifier.report),
    }


def _from_file(path: Path) -> Classifier:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        labels = tuple(str(label) for label in fields["labels"])
        head, report = fields["head"], fields["report"]
        return Classifier(
            name=path.stem,
            model=str(fields["model"]),
            question=Question(str(fields["instruction"]), labels),
            head=None if head is None else _head(head, len(labels)),
            report=None if report is None else _report(report),
        )
    except (OSError, ValueError, KeyError, TypeError, SettingError) as error:
        raise ModelFileError(
            f"{path} is not a classifier ({type(error).__name__}: {error}); create it again"
        ) from None


def _head(fields: dict[str, str], num_labels: int) -> Head:
    bias = _numbers(fields["bias"])
    weights = _numbers(fields["weights"]).reshape(num_labels, -1)
    if bias.shape != (num_labels,) or not weights.size:
        raise ValueError(f"a head of {bias.size} rows for {num_labels} labels")
    return Head(weights, bias)


def _report(fields: dict[str, Any]) -> Report:
    head = fields["head"]
    return Report(
        int(fields["num_examples"]),
        _quality(fields["question"]),
        None if head is None else _quality(head),
    )


def _quality(fields: dict[str, Any]) -> Quality:
    return Quality(
        accuracy=float(fields["accuracy"]),
        log_loss=float(fields["log_loss"]),
        calibration_error=float(fields["calibration_error"]),
        confusion=tuple(tuple(int(count) for count in row) for row in fields["confusion"]),
        bins=tuple((float(sure), float(right), int(n)) for sure, right, n in fields["bins"]),
    )


def _text(values: NDArray[np.float32]) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _numbers(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
