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


def test_prefix_comes_first(client: httpx.Client, engine: ScriptedEngine) -> None:
    engine.script = lambda request: [" world"]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello", "prefix": True},
    ]
    answer = client.post(CHAT, json=body(messages=messages)).json()
    assert answer["choices"][0]["message"]["content"] == "Hello world"
    received = chunks(client.post(CHAT, json=body(messages=messages, stream=True)))
    assert text_of(received) == "Hello world"


def test_stop_string_across_tokens(client: httpx.Client, engine: ScriptedEngine) -> None:
    """The answer ends before the string, and the engine is told to stop."""
    engine.script = lambda request: ["one two three"]
    for stop in (" tw", [" tw", "zzz"]):
        choice = client.post(CHAT, json=body(stop=stop)).json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("one", "stop")
    assert engine.streams[0].is_closed
    assert engine.streams[0].num_events == len("one tw")
    received = chunks(client.post(CHAT, json=body(stop="e t", stream=True)))
    assert text_of(received) == "on"
    assert received[-1]["choices"][0]["finish_reason"] == "stop"


def test_held_back_text_that_is_no_stop_string_arrives(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.script = lambda request: ["one tw"]
    assert text_of(chunks(client.post(CHAT, json=body(stop="two", stream=True)))) == "one tw"


def test_length(client: httpx.Client, engine: ScriptedEngine) -> None:
    choice = client.post(CHAT, json=body(max_tokens=3)).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hel", "length")


def test_n_choices(client: httpx.Client, engine: ScriptedEngine) -> None:
    answer = client.post(CHAT, json=body(n=3)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {"Hello there"}
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 33
    received = chunks(client.post(CHAT, json=body(n=3, stream=True)))
    assert [text_of(received, index) for index in range(3)] == ["Hello there"] * 3
    assert sum(chunk["usage"] is not None for chunk in received) == 1
    assert received[-1]["usage"]["completion_tokens"] == 33


def test_half_characters_wait(client: httpx.Client, engine: ScriptedEngine) -> None:
    engine.script = lambda request: ["é€𝄞"]
    received = chunks(client.post(CHAT, json=body(stream=True)))
    assert text_of(received) == "é€𝄞"
    assert all("\ufffd" not in json.dumps(chunk, ensure_ascii=False) for chunk in received)


def test_logprobs(client: httpx.Client, engine: ScriptedEngine) -> None:
    engine.script = lambda request: ["ab"]
    choice = client.post(CHAT, json=body(logprobs=True, top_logprobs=2)).json()["choices"][0]
    assert choice["logprobs"]["content"][0] == {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "token_id": 97,
        "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97], "token_id": 97},
            {"token": "b", "logprob": -1.5, "bytes": [98], "token_id": 98},
        ],
    }
    plain = client.post(CHAT, json=body(logprobs=True)).json()["choices"][0]
    assert "top_logprobs" not in plain["logprobs"]["content"][0]
    received = chunks(client.post(CHAT, json=body(logprobs=True, stream=True)))
    streamed = [chunk["choices"][0].get("logprobs") for chunk in received]
    assert [entry["content"][0]["token"] for entry in streamed if entry] == ["a", "b"]


def test_prompt_logprobs(client: httpx.Client, engine: ScriptedEngine) -> None:
    """The first token has no logprob, since nothing stands before it."""
    choice = client.post(CHAT, json=body(prompt_logprobs=True)).json()["choices"][0]
    assert [entry["token"] for entry in choice["prompt_logprobs"]["content"]] == ["H", "i"]
    assert "logprobs" not in choice
    fields = body(prompt_logprobs=True, logprobs=True, top_logprobs=2)
    choice = client.post(CHAT, json=fields).json()["choices"][0]
    assert "top_logprobs" in choice["logprobs"]["content"][0]
    assert "top_logprobs" not in choice["prompt_logprobs"]["content"][0]


def text_of(received: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for chunk in received for choice in chunk["choices"]]
    return "".join(c["delta"]["content"] for c in choices if c["index"] == index)
