"""A conversation in the terminal, with a model that follows a script."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from cierzo.cli.chat import converse
from cierzo.engine.request import SamplingParams
from cierzo.errors import ContextOverflowError
from cierzo.tokenizer.template_process import TemplateProcess


class ScriptedLLM:
    """Answers "one", "two", … and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[dict[str, Any]]] = []
        self.closed = 0

    def stream_chat(self, messages: list[dict[str, Any]], params: SamplingParams) -> Iterator[str]:
        self.asked.append([dict(message) for message in messages])
        question = messages[-1]["content"]
        if question == "too long":
            raise ContextOverflowError("9 tokens are over the context of 8")
        try:
            yield f"answer to {question}"
            if question == "stop me":
                raise KeyboardInterrupt
            yield "."
        finally:
            self.closed += 1


def talk(
    monkeypatch: pytest.MonkeyPatch, lines: list[str], system: str | None = None
) -> ScriptedLLM:
    typed = iter(lines)

    def next_line(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", next_line)
    llm = ScriptedLLM()
    converse(llm, SamplingParams(), system)  # type: ignore[arg-type]
    return llm


def contents(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


def test_the_conversation_is_remembered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    llm = talk(monkeypatch, ["a", "", "b"], system="be brief")
    assert contents(llm.asked[1]) == ["be brief", "a", "answer to a.", "b"]
    assert capsys.readouterr().out == "answer to a.\nanswer to b.\n"


def test_clear_forgets_and_exit_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = talk(monkeypatch, ["a", "/clear", "b", "/exit", "c"], system="s")
    assert [contents(messages) for messages in llm.asked] == [["s", "a"], ["s", "b"]]


def test_ctrl_c_stops_the_answer_and_not_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = talk(monkeypatch, ["stop me", "b"])
    assert contents(llm.asked[1]) == ["stop me", "answer to stop me", "b"]
    assert llm.closed == 2


def test_ctrl_c_at_the_prompt_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    script: list[str | type[BaseException]] = [KeyboardInterrupt, "a", EOFError]
    lines = iter(script)

    def next_line(prompt: str) -> str:
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", next_line)
    llm = ScriptedLLM()
    converse(llm, SamplingParams(), None)  # type: ignore[arg-type]
    assert len(llm.asked) == 1


def test_what_cannot_be_asked_is_said_and_forgotten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    llm = talk(monkeypatch, ["too long", "b"])
    assert contents(llm.asked[1]) == ["b"]
    assert "over the context of 8; /clear starts over" in capsys.readouterr().err


def test_an_unknown_slash_command_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert talk(monkeypatch, ["/quit"]).asked == []


def test_ctrl_c_does_not_reach_the_templates_process() -> None:
    """A terminal interrupts its whole process group; the template's process must not be in it."""
    before = set(psutil.Process().children())
    templates = TemplateProcess()
    assert templates.render("{{ word }}", {"word": "wind"}) == "wind"
    [worker] = set(psutil.Process().children()) - before
    assert os.getpgid(worker.pid) != os.getpgid(0)
