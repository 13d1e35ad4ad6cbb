"""Reasoning models: thinking is set apart from the answer, whole and streamed."""

from __future__ import annotations

import httpx2 as httpx
import mistralai.client

from cierzo.server.schemas.chat import ChatCompletionChunk, ChatCompletionResponse
from tests.server.live import LiveServer
from tests.server.scripted import END_THINK, THINK, TOOL_CALLS, ScriptedEngine
from tests.server.test_chat import CHAT, body, chunks
from tests.server.test_tool_calls import FIRST, TOOLS


def thought(text: str, closed: bool) -> dict[str, object]:
    texts = [{"type": "text", "text": text}] if text else []
    return {"type": "thinking", "thinking": texts, "closed": closed}


def test_whole(client: httpx.Client, engine: ScriptedEngine) -> None:
    """Stop strings are looked for in the answer only."""
    engine.script = lambda request: [THINK, "Hm, wind", END_THINK, "A wind."]
    answer = client.post(CHAT, json=body(stop="m,")).json()
    ChatCompletionResponse.model_validate(answer, strict=True)
    content = answer["choices"][0]["message"]["content"]
    assert content == [thought("Hm, wind", True), {"type": "text", "text": "A wind."}]


def test_cut_off_while_thinking(client: httpx.Client, engine: ScriptedEngine) -> None:
    engine.script = lambda request: [THINK, "Hm, wind", END_THINK, "A wind."]
    choice = client.post(CHAT, json=body(max_tokens=3)).json()["choices"][0]
    assert choice["message"]["content"] == [thought("Hm", False)]
    assert choice["finish_reason"] == "length"


def test_stream(client: httpx.Client, engine: ScriptedEngine) -> None:
    """The thinking closes in the delta that brings the first text."""
    engine.script = lambda request: [THINK, "Hm", END_THINK, "OK"]
    received = chunks(client.post(CHAT, json=body(stream=True)))
    for chunk in received:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert [chunk["choices"][0]["delta"]["content"] for chunk in received] == [
        "",
        [thought("H", False)],
        [thought("m", False)],
        [thought("", True), {"type": "text", "text": "O"}],
        "K",
        "",
    ]


def test_tool_call_after_thinking(client: httpx.Client, engine: ScriptedEngine) -> None:
    engine.script = lambda request: [
        THINK,
        "Hm",
        END_THINK,
        TOOL_CALLS,
        'weather{"city": "Huesca"}',
    ]
    choice = client.post(CHAT, json=body(tools=TOOLS)).json()["choices"][0]
    assert choice["message"]["content"] == [thought("Hm", True)]
    assert choice["message"]["tool_calls"] == [FIRST]


def test_the_sdk_reads_it(shared_server: LiveServer, engine: ScriptedEngine) -> None:
    engine.script = lambda request: [THINK, "Hm", END_THINK, "OK"]
    with mistralai.client.Mistral(api_key="none", server_url=shared_server.url) as sdk:
        answer = sdk.chat.complete(model="tiny", messages=[{"role": "user", "content": "Hi"}])
    message = answer.choices[0].message
    assert message is not None and isinstance(message.content, list)
    assert [chunk.type for chunk in message.content] == ["thinking", "text"]
