"""Leniencies and rules for wire-shaped messages and tools."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest

from cierzo.errors import CierzoError, MessageOrderError, PromptError, ToolCallError
from cierzo.tokenizer import messages
from cierzo.tokenizer.messages import (
    merge_same_role,
    nine_alphanumerics,
    parse_messages,
    parse_tools,
)

USER: dict[str, Any] = {"role": "user", "content": "U"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "A"}
FUNCTION: dict[str, Any] = {"name": "f", "arguments": {"x": "é"}}
CALLING: dict[str, Any] = {
    "role": "assistant",
    "tool_calls": [{"id": "call_1", "type": "function", "function": FUNCTION}],
}
RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "call_1", "content": "R"}


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "at least one message"),
        ([ANSWER], "must start with a user message or system message"),
        (
            [USER, ANSWER],
            "Expected last role User or Tool (or Assistant with prefix True) for serving "
            "but got assistant",
        ),
        (
            [USER, CALLING, RESULT, {"role": "system", "content": "S"}],
            "Unexpected role 'system' after role 'tool'",
        ),
        ([USER, RESULT], "Unexpected role 'tool' after role 'user'"),
        ([USER, {**ANSWER, "prefix": True}, USER], "prefix True must be last"),
        ([USER, CALLING, USER], "Not the same number of function calls and responses"),
        ([USER, CALLING, RESULT, RESULT], "Not the same number of function calls and responses"),
    ],
)
def test_wrong_order_is_refused_in_the_vendors_words(
    messages: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(MessageOrderError, match=re.escape(said)):
        parse_messages(messages)


@pytest.mark.parametrize(
    ("messages", "kind", "said"),
    [
        ([{"role": "robot", "content": "x"}], PromptError, "'robot'"),
        ([{"content": "x"}], PromptError, "role"),
        ([USER, {"role": "assistant", "content": ""}, USER], PromptError, "content or tool_calls"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], PromptError, "'image_url'"),
        ([{"role": "user", "content": [{"type": "text"}]}], PromptError, "without text"),
        ([{"role": "user", "content": 5}], PromptError, "must be text"),
        ([USER, {"role": "assistant", "tool_calls": ["x"]}, RESULT], ToolCallError, "'x'"),
        (
            [USER, CALLING, {**RESULT, "tool_call_id": ""}],
            ToolCallError,
            "Tool call id was  but must be a-z, A-Z, 0-9, with a length of 9.",
        ),
        ([USER, CALLING, {**RESULT, "name": "a b"}], ToolCallError, "Function name was a b"),
    ],
)
def test_malformed_messages_are_refused_by_name(
    messages: list[dict[str, Any]], kind: type[CierzoError], said: str
) -> None:
    with pytest.raises(kind, match=re.escape(said)):
        parse_messages(messages)


def test_leniencies() -> None:
    parsed = parse_messages(
        [
            {"role": "developer", "content": "S"},
            {"role": "user", "content": [{"type": "text", "text": "U"}]},
            CALLING,
            RESULT,
            {"role": "assistant", "content": "A", "tool_calls": None, "prefix": False},
            USER,
        ]
    )
    assert [message.role for message in parsed[:2]] == ["system", "user"]
    assert parsed[2].tool_calls[0].arguments == '{"x": "é"}'
    assert parsed[2].tool_calls[0].id == parsed[3].tool_call_id
    assert re.fullmatch("[a-zA-Z0-9]{9}", parsed[3].tool_call_id or "")


def test_same_roles_merge_with_a_blank_line() -> None:
    parsed = parse_messages([USER, {"role": "user", "content": "V"}, ANSWER, ANSWER, USER])
    assert [message.text for message in merge_same_role(parsed)] == ["U\n\nV", "A\n\nA", "U"]


def test_a_long_run_of_one_role_is_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined pair by pair, its text would be copied once per message."""
    copied: list[int] = []

    class Separator(str):
        def join(self, texts: Iterable[str], /) -> str:
            joined = super().join(texts)
            copied.append(len(joined))
            return joined

    monkeypatch.setattr(messages, "MERGE_SEPARATOR", Separator("\n\n"))
    (merged,) = merge_same_role(parse_messages([USER] * 100))
    assert merged.text == "\n\n".join("U" * 100)
    assert sum(copied) == len(merged.text)


def test_call_ids_that_fit_are_kept_and_others_digested() -> None:
    assert nine_alphanumerics("abcDEF123") == "abcDEF123"
    digests = {nine_alphanumerics(f"call_{i}") for i in range(100)}
    assert len(digests) == 100
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", digest) for digest in digests)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ({"name": "a b"}, "Function name was a b"),
        ({"name": "x" * 65}, "maximum length of 64"),
        ({"name": "f", "parameters": []}, "must be a JSON schema"),
        ({}, "Function name was None"),
    ],
)
def test_malformed_tools_are_refused_by_name(function: dict[str, Any], said: str) -> None:
    with pytest.raises(ToolCallError, match=re.escape(said)):
        parse_tools([{"type": "function", "function": function}])


def test_tools_of_another_kind_or_twice_are_refused() -> None:
    with pytest.raises(ToolCallError, match="connector"):
        parse_tools([{"type": "connector"}])
    tool = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(ToolCallError, match="named f"):
        parse_tools([tool, tool])


def test_a_name_without_end_is_told_in_short() -> None:
    calling = {"role": "assistant", "tool_calls": [{"function": {"name": "f" * 100_000}}]}
    with pytest.raises(ToolCallError) as error:
        parse_messages([USER, calling])
    assert len(str(error.value)) < 300
