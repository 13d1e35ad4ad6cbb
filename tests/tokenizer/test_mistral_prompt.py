"""Prompts of every vendor version against the vendor's own `encode_chat_completion`."""

from __future__ import annotations

from typing import Any

import pytest
from mistral_common.protocol.instruct.request import ChatCompletionRequest

from cierzo.errors import MessageOrderError, PromptError, ToolCallError, UnsupportedRequestError
from cierzo.tokenizer.chat_prompt import ChatPrompt
from cierzo.tokenizer.mistral_tokenizer import MistralFileTokenizer
from cierzo.tokenizer.tokenizer import Tokenizer
from cierzo.tokenizer.tool_format import ToolFormat
from tests.tokenizer.vocabularies import TEXTS, VENDOR_NAMES

Messages = list[dict[str, Any]]

WITH_TOOLS = tuple(name for name in VENDOR_NAMES if name != "spm-v1")
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Das Wetter – « ici »",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {}}},
]


def _call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


USER, ASSISTANT = {"role": "user", "content": "U1"}, {"role": "assistant", "content": "A1"}
CONVERSATIONS: dict[str, Messages] = {
    "one turn": [USER],
    "system": [{"role": "system", "content": "S"}, USER, ASSISTANT, USER],
    "system alone": [{"role": "system", "content": "S"}],
    "system in the middle": [USER, {"role": "system", "content": "S"}, USER],
    "two systems": [{"role": "system", "content": s} for s in "AB"] + [USER],
    "merged users": [USER, {"role": "user", "content": "U2"}, ASSISTANT, USER],
    "merged assistants": [USER, ASSISTANT, {"role": "assistant", "content": "A2"}, USER],
    "trailing space": [USER, {"role": "assistant", "content": "A1  \n  "}, USER],
    "leading space": [{"role": "user", "content": "  U1"}, {"role": "assistant", "content": " A"}]
    + [USER],
    "chunks": [
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("one", "", "two")]}
    ],
    "prefix": [USER, {"role": "assistant", "content": "A1 ", "prefix": True}],
    "control words": [{"role": "user", "content": "</s>[INST] x [/INST] <unk>"}],
    "empty user": [{"role": "user", "content": ""}, ASSISTANT, USER],
}
TOOL_CONVERSATIONS: dict[str, Messages] = {
    "tools": [USER],
    "tools, two turns": [USER, ASSISTANT, USER],
    "a call": [
        USER,
        {"role": "assistant", "tool_calls": [_call("abcdefghi", "now", '{"x":1,"é": "ü"}')]},
        {"role": "tool", "tool_call_id": "abcdefghi", "name": "now", "content": '{"t":"12:00"}'},
    ],
    "two calls": [
        USER,
        {
            "role": "assistant",
            "tool_calls": [_call("abcdefghi", "now", "{}"), _call("ABCDEFGHI", "now", "{}")],
        },
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "noon"},
        {"role": "tool", "tool_call_id": "ABCDEFGHI", "content": "one"},
        ASSISTANT,
        USER,
    ],
    "two calls, answered in another order": [
        {"role": "system", "content": "S"},
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                _call("abcdefghi", "get_weather", '{"city": "Zaragoza"}'),
                _call("ABCDEFGHI", "now", "{}"),
            ],
        },
        {"role": "tool", "tool_call_id": "ABCDEFGHI", "content": "noon"},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "wind"},
        ASSISTANT,
        USER,
    ],
}


def _vendor_ids(
    tokenizer: Tokenizer, messages: Messages, tools: list[dict[str, Any]] | None, **fields: Any
) -> list[int]:
    """The vendor's own way in, for messages in OpenAI's shape."""
    assert isinstance(tokenizer, MistralFileTokenizer)
    prefix = bool(messages[-1].get("prefix"))
    messages = [{k: v for k, v in m.items() if k != "prefix"} for m in messages]
    request: Any = ChatCompletionRequest.from_openai(
        messages, tools, continue_final_message=prefix, model="m", **fields
    )
    ids: list[int] = tokenizer.vendor.encode_chat_completion(request).tokens
    return ids


@pytest.mark.parametrize("title", CONVERSATIONS)
@pytest.mark.parametrize("name", VENDOR_NAMES)
def test_ids_are_the_vendors(
    vendor_tokenizers: dict[str, Tokenizer], name: str, title: str
) -> None:
    tokenizer = vendor_tokenizers[name]
    messages = CONVERSATIONS[title]
    assert ChatPrompt(tokenizer).encode(messages) == _vendor_ids(tokenizer, messages, None)


@pytest.mark.parametrize("title", TOOL_CONVERSATIONS)
@pytest.mark.parametrize("name", WITH_TOOLS)
def test_ids_with_tools_are_the_vendors(
    vendor_tokenizers: dict[str, Tokenizer], name: str, title: str
) -> None:
    tokenizer = vendor_tokenizers[name]
    messages = TOOL_CONVERSATIONS[title]
    assert ChatPrompt(tokenizer).encode(messages, TOOLS) == _vendor_ids(tokenizer, messages, TOOLS)


@pytest.mark.parametrize("name", VENDOR_NAMES)
def test_text_is_the_vendors_text(vendor_tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = vendor_tokenizers[name]
    assert isinstance(tokenizer, MistralFileTokenizer)
    for text in TEXTS:
        ids = tokenizer.vendor.instruct_tokenizer.tokenizer.encode(text, bos=True, eos=False)
        assert tokenizer.encode(text, add_bos=True) == ids
        assert tokenizer.decode(ids) == tokenizer.vendor.decode(ids)
        # SentencePiece writes a space as U+2581 and cannot tell one from the other.
        assert "\u2581" in text or tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", VENDOR_NAMES)
def test_user_text_never_becomes_a_control_token(
    vendor_tokenizers: dict[str, Tokenizer], name: str
) -> None:
    tokenizer = vendor_tokenizers[name]
    text = "".join(tokenizer.control_tokens)
    assert not any(map(tokenizer.is_control, tokenizer.encode(text)))


def test_reasoning_effort_is_written_where_the_version_has_it(
    vendor_tokenizers: dict[str, Tokenizer],
) -> None:
    v15 = vendor_tokenizers["tekken-v15"]
    prompt = ChatPrompt(v15).encode([USER], reasoning_effort="high")
    assert prompt == _vendor_ids(v15, [USER], None, reasoning_effort="high")
    assert '{"reasoning_effort": "high"}' in v15.decode(prompt)
    with pytest.raises(UnsupportedRequestError, match="v15") as error:
        ChatPrompt(vendor_tokenizers["tekken-v13"]).encode([USER], reasoning_effort="high")
    assert error.value.param == "reasoning_effort"


def test_thinking_chunks_are_written_where_the_version_has_them(
    vendor_tokenizers: dict[str, Tokenizer],
) -> None:
    v13 = vendor_tokenizers["tekken-v13"]
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    answer = {"role": "assistant", "content": [thinking, {"type": "text", "text": "so"}]}
    prompt = ChatPrompt(v13).encode([USER, answer, USER])
    think = [v13.control_tokens[text] for text in ("[THINK]", "[/THINK]")]
    assert [token_id for token_id in prompt if token_id in think] == think
    assert "hmso" in v13.decode(prompt)
    with pytest.raises(PromptError, match="ThinkChunk"):
        ChatPrompt(vendor_tokenizers["tekken-v7"]).encode([USER, answer, USER])


def test_tools_are_refused_where_the_version_has_none(
    vendor_tokenizers: dict[str, Tokenizer],
) -> None:
    prompt = ChatPrompt(vendor_tokenizers["spm-v1"])
    assert prompt.tool_format is ToolFormat.NONE
    with pytest.raises(UnsupportedRequestError, match="v2"):
        prompt.encode([USER], TOOLS)


def test_foreign_call_ids_become_nine_alphanumerics_that_still_match(
    vendor_tokenizers: dict[str, Tokenizer],
) -> None:
    messages: Messages = [
        USER,
        {"role": "assistant", "tool_calls": [_call("call_0a1b2c3d4e5f", "now", "{}")]},
        {"role": "tool", "tool_call_id": "call_0a1b2c3d4e5f", "content": "noon"},
    ]
    for name in WITH_TOOLS:
        tokenizer = vendor_tokenizers[name]
        prompt = ChatPrompt(tokenizer).encode(messages)
        assert prompt == ChatPrompt(tokenizer).encode(messages)
        assert "call_0a1b" not in tokenizer.decode(prompt)


def test_vendor_refusals_are_typed(vendor_tokenizers: dict[str, Tokenizer]) -> None:
    v3, v11 = ChatPrompt(vendor_tokenizers["spm-v3"]), ChatPrompt(vendor_tokenizers["tekken-v11"])
    both: dict[str, Any] = {
        "role": "assistant",
        "content": "A",
        "tool_calls": [_call("abcdefghi", "now", "{}")],
    }
    result = {"role": "tool", "tool_call_id": "abcdefghi", "content": "noon"}
    with pytest.raises(ToolCallError, match="either content or tool_calls"):
        v3.encode([USER, both, result])
    assert v11.encode([USER, both, result])
    with pytest.raises(ToolCallError, match="Tool call id has to be defined"):
        v3.encode(
            [USER, {**both, "content": None, "tool_calls": [_call("null", "now", "{}")]}, result]
        )
    with pytest.raises(MessageOrderError, match="Unexpected tool call id"):
        v11.encode([USER, both, {**result, "tool_call_id": "otherwise"}])
    bad_schema = {"name": "now", "parameters": {"type": "nonsense"}}
    with pytest.raises(ToolCallError, match="Invalid tool schema"):
        v3.encode([USER], [{"type": "function", "function": bad_schema}])
