"""Answers in every tool-call spelling, streamed token by token."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cierzo.tokenizer.detokenizer import Detokenizer
from cierzo.tokenizer.messages import ToolCall
from cierzo.tokenizer.tokenizer import Tokenizer
from cierzo.tokenizer.tool_calls import ToolCallParser
from cierzo.tokenizer.tool_format import ToolFormat, tagged_call

ARGUMENTS = '{"city": "Zaragoza {ES}", "days": [1, 2]}'
NESTED: dict[str, Any] = {"x": {"y": "}]"}}


def _parse(
    tokenizer: Tokenizer, tool_format: ToolFormat, pieces: list[int | str]
) -> tuple[str, list[ToolCall]]:
    """The answer that `pieces` make, fed one token at a time as the server does."""
    parser, detokenizer = ToolCallParser(tokenizer, tool_format), Detokenizer(tokenizer)
    content = ""
    calls: list[ToolCall] = []
    for token_id in tokenizer.encode_pieces(pieces):
        text, whole = parser.add(token_id, detokenizer.add(token_id))
        content, calls = content + text, calls + whole
    text, whole = parser.flush()
    return content + text + detokenizer.flush(), calls + whole


def _pieces(tokenizer: Tokenizer, text: str) -> list[int | str]:
    """`text` with [TOOL_CALLS], [CALL_ID] and [ARGS] as control tokens."""
    pieces: list[int | str] = [text]
    for marker in ("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"):
        split: list[int | str] = []
        for piece in pieces:
            if isinstance(piece, str):
                first, *rest = piece.split(marker)
                split.append(first)
                for part in rest:
                    split += [tokenizer.control_tokens[marker], part]
            else:
                split.append(piece)
        pieces = split
    return pieces


def _simple(calls: list[ToolCall]) -> list[tuple[str, Any]]:
    assert all(len(call.id) == 9 and call.id.isalnum() for call in calls)
    assert len({call.id for call in calls}) == len(calls)
    return [(call.name, json.loads(call.arguments)) for call in calls]


WANTED = [("get", json.loads(ARGUMENTS)), ("now", NESTED)]


@pytest.mark.parametrize("content", ["", "Let me {see}: "])
@pytest.mark.parametrize("name", ["spm-v2", "spm-v3", "tekken-v3", "spm-v7", "tekken-v7"])
def test_json_list(vendor_tokenizers: dict[str, Tokenizer], name: str, content: str) -> None:
    tokenizer = vendor_tokenizers[name]
    calls = [
        {"name": "get", "arguments": json.loads(ARGUMENTS), "id": "abcdefghi"},
        {"name": "now", "arguments": NESTED},
    ]
    text = f"{content}[TOOL_CALLS] {json.dumps(calls)}"
    got, parsed = _parse(tokenizer, ToolFormat.JSON_LIST, _pieces(tokenizer, text))
    assert (got, _simple(parsed)) == (content, WANTED)
    assert parsed[0].id == "abcdefghi"


@pytest.mark.parametrize("content", ["", "Let me {see}: "])
def test_names_with_markers(vendor_tokenizers: dict[str, Tokenizer], content: str) -> None:
    v11, v13 = vendor_tokenizers["tekken-v11"], vendor_tokenizers["tekken-v13"]
    nested = json.dumps(NESTED)
    text = f"{content}[TOOL_CALLS]get[CALL_ID]abcdefghi[ARGS]{ARGUMENTS}"
    text += f"[TOOL_CALLS]now[CALL_ID]ABCDEFGHI[ARGS]{nested}"
    got, parsed = _parse(v11, ToolFormat.NAME_ID_ARGS, _pieces(v11, text))
    assert (got, _simple(parsed)) == (content, WANTED)
    assert [call.id for call in parsed] == ["abcdefghi", "ABCDEFGHI"]
    text = f"{content}[TOOL_CALLS]get[ARGS]{ARGUMENTS}[TOOL_CALLS]now[ARGS]{nested}"
    got, parsed = _parse(v13, ToolFormat.NAME_ARGS, _pieces(v13, text))
    assert (got, _simple(parsed)) == (content, WANTED)


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        (tagged_call(ToolCall("", "get", ARGUMENTS)), "", ["get"]),
        (
            f"I <b>{{see}}</b>:\n\n{tagged_call(ToolCall('', 'get', ARGUMENTS))}\n",
            "I <b>{see}</b>:",
            ["get"],
        ),
        ('<tool_call>[{"name": "a", "arguments": {}}, {"name": "b"}]</tool_call>', "", ["a", "b"]),
        (
            '<tool_call>{"name": "a"}</tool_call>\n<tool_call>{"name": "b"}</tool_call>',
            "",
            ["a", "b"],
        ),
        ('<tool_call>{"name": "a", "arguments": "{\\"x\\": 1}"}', "", ["a"]),
        (f"{tagged_call(ToolCall('', 'get', ARGUMENTS))}\n<tool_ca", "", ["get"]),
        ("a <tool_ca", "a <tool_ca", []),
        ('x <tool_call>{"name": "a", "argu', 'x<tool_call>{"name": "a", "argu', []),
        ("x<tool_call>nonsense</tool_call>y", "x<tool_call>nonsense</tool_call>y", []),
        ("no calls, just {braces} and spaces  ", "no calls, just {braces} and spaces  ", []),
    ],
)
def test_tagged(smollm2: Tokenizer, text: str, content: str, names: list[str]) -> None:
    got, parsed = _parse(smollm2, ToolFormat.TAGGED, [text])
    assert (got, [call.name for call in parsed]) == (content, names)


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        ('{"name": "a", "parameters": {"x": 1}}', "", ["a"]),
        (' {"name": "a", "parameters": {}}; {"name": "b", "parameters": {}}', "", ["a", "b"]),
        ('{"answer": 42}', '{"answer": 42}', []),
        ("Well, {no}", "Well, {no}", []),
        ('{"name": "a", "par', '{"name": "a", "par', []),
    ],
)
def test_bare_json(smollm2: Tokenizer, text: str, content: str, names: list[str]) -> None:
    got, parsed = _parse(smollm2, ToolFormat.BARE_JSON, [text])
    assert (got, [call.name for call in parsed]) == (content, names)


@pytest.mark.parametrize(
    ("name", "tool_format", "text", "content"),
    [
        ("tekken-v13", ToolFormat.NAME_ARGS, "a[TOOL_CALLS]f[ARGS]{not json", "af{not json"),
        ("tekken-v13", ToolFormat.NAME_ARGS, "a[TOOL_CALLS]f", "af"),
        ("tekken-v11", ToolFormat.NAME_ID_ARGS, "[ARGS]a", "a"),
        ("tekken-v7", ToolFormat.JSON_LIST, 'a[TOOL_CALLS][{"name": "f"', 'a[{"name": "f"'),
        ("tekken-v7", ToolFormat.JSON_LIST, 'a[TOOL_CALLS][{"x": 1}]', 'a{"x": 1}'),
    ],
)
def test_what_is_no_call_is_given_back(
    vendor_tokenizers: dict[str, Tokenizer],
    name: str,
    tool_format: ToolFormat,
    text: str,
    content: str,
) -> None:
    tokenizer = vendor_tokenizers[name]
    assert _parse(tokenizer, tool_format, _pieces(tokenizer, text)) == (content, [])


@pytest.mark.parametrize(
    ("name", "tool_format", "text"),
    [
        ("tekken-v13", ToolFormat.NAME_ARGS, "a[TOOL_CALLS]f[ARGS]{}[TOOL_CALLS]f[ARGS]{not"),
        ("tekken-v7", ToolFormat.JSON_LIST, 'a[TOOL_CALLS][{"name": "f"}, {"name": "f'),
        ("tekken-v7", ToolFormat.TAGGED, 'a<tool_call>{"name": "f"}</tool_call><tool_call>{"n'),
    ],
)
def test_a_call_cut_off_after_whole_ones_is_no_content(
    vendor_tokenizers: dict[str, Tokenizer], name: str, tool_format: ToolFormat, text: str
) -> None:
    tokenizer = vendor_tokenizers[name]
    pieces: list[int | str] = [text]
    if tool_format is not ToolFormat.TAGGED:
        pieces = _pieces(tokenizer, text)
    content, calls = _parse(tokenizer, tool_format, pieces)
    assert (content, [call.name for call in calls]) == ("a", ["f"])


def test_calls_come_whole_and_at_once(vendor_tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = vendor_tokenizers["spm-v3"]
    calls: list[dict[str, Any]] = [{"name": n, "arguments": {"x": {}}} for n in ("a", "b")]
    parser, detokenizer = ToolCallParser(tokenizer, ToolFormat.JSON_LIST), Detokenizer(tokenizer)
    pieces = _pieces(tokenizer, f"Hi[TOOL_CALLS] {json.dumps(calls)}")
    per_token = [
        parser.add(token_id, detokenizer.add(token_id))[1]
        for token_id in tokenizer.encode_pieces(pieces)
    ]
    assert [call.name for whole in per_token for call in whole] == ["a", "b"]
    assert max(map(len, per_token)) == 1
    assert parser.flush() == ("", [])


def test_text_is_not_held_while_no_call_can_begin(smollm2: Tokenizer) -> None:
    parser = ToolCallParser(smollm2, ToolFormat.TAGGED)
    assert parser.add(5, "Hello there.") == ("Hello there.", [])
    assert parser.add(5, " <b") == (" <b", [])
    assert parser.add(5, " \n") == ("", [])
    assert parser.add(5, "x") == (" \nx", [])


def test_without_tools_everything_is_content(vendor_tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = vendor_tokenizers["tekken-v13"]
    pieces = _pieces(tokenizer, "a <tool_call> {b}[TOOL_CALLS]c")
    assert _parse(tokenizer, ToolFormat.NONE, pieces) == ("a <tool_call> {b}c", [])
