"""`cierzo classifier`, as a person would type it, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cierzo.classifiers.definition import ClassifierFolder
from cierzo.cli import run
from tests.tiny_checkpoints import tiny_model, write_gguf


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    return ["--data", str(tmp_path / "data")]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), vocabulary="llama")
    return tmp_path / "tiny.gguf"


def write_examples(path: Path, *lines: object) -> Path:
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return path


def test_made_listed_shown_removed(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["classifier", "list", *data]) == 0
    assert "no classifiers" in capsys.readouterr().out
    assert run(["classifier", "create", "desk", "--labels", "billing, shipping", *data]) == 0
    shown = capsys.readouterr().out
    assert "desk: asks smollm2-135m-instruct" in shown and "billing, shipping" in shown
    assert "quality unknown" in shown
    assert (
        run(["classifier", "create", "spam", "--policy", "It sells.", "--model", "m", *data]) == 0
    )
    capsys.readouterr()
    assert run(["classifier", "list", *data]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["desk", "all", "smollm2-135m-instruct"],
        ["spam", "all", "m"],
    ]
    assert run(["classifier", "remove", "desk", *data]) == 0
    assert run(["classifier", "show", "desk", *data]) == 1
    assert "no classifier 'desk'; there are: spam" in capsys.readouterr().err


def test_a_workspaces_own(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = data[data.index("--data") :][:2]
    assert run(["workspaces", "create", "team", *folder]) == 0
    create = ["classifier", "create", "desk", "--labels", "a,b", *data]
    assert run(create) == run([*create, "--workspace", "team"]) == 0
    capsys.readouterr()
    assert run(["classifier", "list", *data]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["desk", "all"], ["desk", "team"]]
    assert run(["classifier", "remove", "desk", "--workspace", "team", *data]) == 0
    assert run(["classifier", "show", "desk", *data]) == 0
    assert run(["classifier", "show", "desk", "--workspace", "team", *data]) == 1
    assert "of this workspace there are: none" in capsys.readouterr().err
    assert run([*create, "--workspace", "nowhere"]) == 1


def test_examples_measure_it_and_fit_a_head(
    model: Path, data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [(f"the wind {i} north", "north") for i in range(8)]
    texts += [(f"a sea {i} of sand", "south") for i in range(8)]
    lines = [{"text": text, "label": label} for text, label in texts]
    examples = write_examples(tmp_path / "examples.jsonl", *lines, "")
    create = ["classifier", "create", "side", "--labels", "north,south", *data]
    create += ["--model", str(model), "--examples", str(examples)]
    assert run([*create, "--zero-shot"]) == 0
    shown = capsys.readouterr().out
    assert "without a head, 16 examples: accuracy" in shown and "with its head" not in shown
    assert run(create) == 0
    shown = capsys.readouterr().out
    assert "with its head, examples that the fit had not seen: accuracy" in shown
    assert "true \\ given" in shown and "how often right" in shown
    made = ClassifierFolder(tmp_path / "data").get("side")
    assert made.model == "tiny" and made.head is not None
    assert made.report is not None and made.report.head is not None
    assert sum(map(sum, made.report.head.confusion)) == 16
    assert run(["classifier", "list", *data]) == 0
    assert "fitted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", 'must be a JSON object {"text"'),
        ({"text": "a"}, "line 2: must be a JSON object"),
        ({"text": 3, "label": "yes"}, "line 2: must be a JSON object"),
        ({"text": "a", "label": "maybe"}, "label 'maybe' is not one of yes, no"),
    ],
)
def test_faulty_examples(
    data: list[str],
    tmp_path: Path,
    line: object,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_examples(tmp_path / "e.jsonl", {"text": "good", "label": True}, line)
    create = ["classifier", "create", "x", "--policy", "p", "--examples", str(path), *data]
    assert run(create) == 1
    assert message in capsys.readouterr().err
    assert ClassifierFolder(tmp_path / "data").names() == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "either --labels or --policy"),
        (["--labels", "a,b", "--policy", "p"], 2, "either --labels or --policy"),
        (["--labels", "a,b", "--zero-shot"], 2, "--examples"),
        (["--labels", "a"], 1, "two labels or more"),
        (["--labels", "a,a"], 1, "must be different"),
    ],
)
def test_misuse(
    data: list[str],
    arguments: list[str],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["classifier", "create", "x", *arguments, *data]) == status
    assert message in capsys.readouterr().err
    assert run(["classifier", "create", "../x", "--labels", "a,b", *data]) == 1
