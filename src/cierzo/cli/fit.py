"""A classifier measured, and its head fitted, on a file of examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cierzo.classifiers.definition import Classifier, Report
from cierzo.classifiers.fitting import fit_head, quality
from cierzo.classifiers.question import Render
from cierzo.classifiers.scoring import Scorer
from cierzo.cli.local import open_model
from cierzo.errors import PromptError, SettingError
from cierzo.llm import LLM
from cierzo.settings import Settings


def fit(
    classifier: Classifier, path: Path, model: str, settings: Settings, *, with_head: bool
) -> Classifier:
    """`classifier` with a report on the examples at `path`, and, if asked for, a head.

    Raises SettingError for a file that is not as it should be.
    """
    texts, label_ids = read_examples(path, classifier)
    with open_model(model, settings) as llm:
        scorer = Scorer(classifier.question, llm.tokenizer, renderer(llm))
        scorer.calibrate(list(llm.read(scorer.content_free_prompts())))
        prompts = (scorer.prompt(scorer.text_ids(text), scorer.full_readout) for text in texts)
        readings = list(llm.read(prompts))
    truth = np.array(label_ids, np.int64)
    scores = np.array([scorer.scores(reading) for reading in readings])
    report = Report(len(texts), quality(scores, truth), None)
    if not with_head:
        return replace(classifier, report=report)
    hidden = np.array([reading.hidden for reading in readings], np.float32)
    head, held_out = fit_head(hidden, truth, classifier.question.labels)
    return replace(classifier, head=head, report=replace(report, head=held_out))


def read_examples(path: Path, classifier: Classifier) -> tuple[list[str], list[int]]:
    """The texts and the numbers of their labels."""
    labels = classifier.question.labels
    texts, label_ids = [], []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text, label = _example(line, f"{path}, line {number}")
        if classifier.is_policy and isinstance(label, bool):
            label = "yes" if label else "no"
        if label not in labels:
            raise SettingError(
                f"{path}, line {number}: label {label!r:.60} is not one of {', '.join(labels)}"
            )
        texts.append(text)
        label_ids.append(labels.index(str(label)))
    if not texts:
        raise SettingError(f"{path} holds no examples")
    return texts, label_ids


def _example(line: str, where: str) -> tuple[str, object]:
    try:
        fields = json.loads(line)
        text, label = fields["text"], fields["label"]
    except (ValueError, KeyError, TypeError):
        text, label = None, None
    if not isinstance(text, str):
        raise SettingError(f'{where}: must be a JSON object {{"text": …, "label": …}}')
    return text, label


def renderer(llm: LLM) -> Render | None:
    """The model's chat format for one user message; None when it has none."""

    def render(content: str) -> Sequence[int]:
        return llm.chat_prompt.encode([{"role": "user", "content": content}])

    try:
        render("?")
    except PromptError:
        return None
    return render
