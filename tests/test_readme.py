"""What README.md and CONTRIBUTING.md tell people to type is typed here, or at least understood."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from cierzo.cli import build_cli
from cierzo.hub import CATALOGUE, DEFAULT_MODEL
from cierzo.server.route_table import ROUTES
from cierzo.server.schemas.chat import ChatCompletionRequest
from tests.server.conftest import scripted_model
from tests.server.live import live_server
from tests.server.scripted import ScriptedEngine
from tests.tiny_checkpoints import BlockType, tiny_model, write_gguf

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


SHELL = [line for block in blocks("bash") for line in block.splitlines() if line]
CIERZO = [line for line in SHELL if line.startswith("cierzo ")]


def test_make_verbs_exist() -> None:
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z]+)\b", README + CONTRIBUTING))
    assert {"demo", "test"} <= named
    assert named <= verbs


@pytest.mark.parametrize("line", CIERZO)
def test_commands_are_understood(line: str) -> None:
    _, command, *arguments = shlex.split(line, comments=True)
    group = typer.main.get_command(build_cli())
    known = getattr(group, "commands")  # noqa: B009
    known[command].make_context(command, arguments)
    if arguments and arguments[0] not in CATALOGUE:
        assert arguments[0].startswith("-") or arguments[0] in README.partition(line)[0]


def test_the_curl_line_is_a_valid_request() -> None:
    [line] = [line for line in SHELL if line.startswith("curl ")]
    words = shlex.split(line)
    assert words[1].removeprefix("http://127.0.0.1:8000") in {route.path for route in ROUTES}
    body = json.loads(words[words.index("-d") + 1])
    assert ChatCompletionRequest.model_validate(body).model == DEFAULT_MODEL


def test_the_sdk_example_prints_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    [example] = [block for block in blocks("python") if "mistralai" in block]
    with live_server([scripted_model(ScriptedEngine(), DEFAULT_MODEL)]) as server:
        exec(example.replace("http://127.0.0.1:8000", server.url), {})
    assert capsys.readouterr().out


def test_the_python_example_runs(tmp_path: Path) -> None:
    [example] = [block for block in blocks("python") if "LLM(" in block]
    model = tmp_path / "tiny.gguf"
    write_gguf(model, tiny_model("llama"), block_type=BlockType.Q8_0)
    names: dict[str, Any] = {}
    exec(example.replace(f'"{DEFAULT_MODEL}"', repr(str(model))), names)
    with names["llm"] as llm:
        assert len(names["answer"].outputs[0].token_ids) <= 32  # none where the first ends it
        assert names["logits"].shape == (3, llm.config.vocab_size)
