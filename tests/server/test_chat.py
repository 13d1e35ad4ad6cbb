"""Whole and streamed answers over a socket: shapes, order, finish reasons."""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx

from cierzo.server.schemas.chat import ChatCompletionChunk, ChatCompletionResponse
from tests.server.scripted import ScriptedEngine

CHAT = "/v1/chat/completions"


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **fields}


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """The stream's chunks; checks framing and [DONE]."""
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [line for line in response.text.split("\n\n") if line and not line.startswith(":")]
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def test_whole_answer(client: httpx.Client, engine: ScriptedEngine) -> None:
    answer = client.post(CHAT, json=body())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    ChatCompletionResponse.model_validate(answer.json(), strict=True)
    assert answer.json()["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hello there",
                "tool_calls": None,
                "prefix": False,
            },
            "finish_reason": "stop",
        }
    ]
    assert answer.json()["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 11,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def test_stream_order(client: httpx.Client, engine: ScriptedEngine) -> None:
    """Role first, usage null until the last chunk, which alone has a finish_reason."""
    received = chunks(client.post(CHAT, json=body(stream=True)))
    for chunk in received:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in received]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta["content"] for delta in deltas) == "Hello there"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in received]
    assert reasons == [None] * (len(received) - 1) + ["stop"]
    assert [chunk["usage"] is None for chunk in received] == [True] * (len(received) - 1) + [False]
    assert received[-1]["usage"]["completion_tokens"] == 11
    assert len({chunk["id"] for chunk in received}) == 1
