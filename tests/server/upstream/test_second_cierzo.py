"""A model on a second Cierzo answers as one that is here: shapes, streams, tools, rows, errors."""

from __future__ import annotations

import base64
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from mistralai.client import Mistral

from cierzo.engine.request import TokenEvent
from cierzo.errors import ContextOverflowError, QueueFullError
from cierzo.server.schemas.chat import ChatCompletionChunk, ChatCompletionResponse
from cierzo.store import Database, ledger
from cierzo.store.ledger import Period, UsageRecord
from tests.sdk import scenario
from tests.server.answers import answer as answer_to
from tests.server.live import LiveServer
from tests.server.scripted import END_THINK, SUFFIX, THINK, TOOL_CALLS, ScriptedEngine
from tests.server.test_auth import bearer
from tests.server.test_chat import CHAT, chunks, text_of
from tests.server.test_chat import body as own_body
from tests.server.test_errors import check
from tests.waiting import eventually


def body(**fields: Any) -> dict[str, Any]:
    return own_body(**{"model": "far", **fields})


def row_of(database: Database, answer: httpx.Response) -> UsageRecord | None:
    return ledger.find(database, answer.headers["x-request-id"])


def content_of(answer: httpx.Response) -> Any:
    return answer.json()["choices"][0]["message"]["content"]


def test_a_whole_answer(client: httpx.Client, engine: ScriptedEngine, database: Database) -> None:
    answer = client.post(CHAT, json=body(max_tokens=20, random_seed=7))
    assert answer.status_code == 200
    ChatCompletionResponse.model_validate(answer.json(), strict=True)
    assert answer.json()["model"] == "far"
    assert answer.json()["id"] == answer.headers["x-request-id"].replace("-", "")
    (choice,) = answer.json()["choices"]
    assert choice["message"]["content"] == "Hello there"
    assert choice["finish_reason"] == "stop"
    assert answer.json()["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 11,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert engine.requests[0].params.seed == 7
    row = row_of(database, answer)
    assert row is not None and (row.model, row.upstream, row.status) == ("far", "there", "ok")
    assert (row.prompt_tokens, row.completion_tokens) == (3, 11) and row.usage_known
    assert row.price_micros == 22  # 0.3 of cached input, 22 of output


def test_a_stream(client: httpx.Client, engine: ScriptedEngine, database: Database) -> None:
    answer = client.post(CHAT, json=body(stream=True))
    received = chunks(answer)
    for chunk in received:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert text_of(received) == "Hello there"
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in received]
    assert reasons == [None] * (len(received) - 1) + ["stop"]
    assert [chunk["usage"] is None for chunk in received] == [True] * (len(received) - 1) + [False]
    assert received[-1]["usage"]["completion_tokens"] == 11
    row = row_of(database, answer)
    assert row is not None and row.completion_tokens == 11


def test_several_answers_with_a_tool_call_and_logprobs(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.script = lambda request: ["So", TOOL_CALLS, 'a{"x": 1}\nb{"x": 2}']
    tools = [{"function": {"name": name, "parameters": {}}} for name in "ab"]
    fields = body(tools=tools, tool_choice="any", n=2, logprobs=True, top_logprobs=1)
    whole = client.post(CHAT, json=fields).json()
    direct = [choice["message"] for choice in whole["choices"]]
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["tool_calls"] * 2
    for message in direct:
        assert message["content"] == "So"
        calls = [call["function"] for call in message["tool_calls"]]
        assert calls == [
            {"name": "a", "arguments": '{"x": 1}'},
            {"name": "b", "arguments": '{"x": 2}'},
        ]
        assert [call["index"] for call in message["tool_calls"]] == [0, 1]
    first = whole["choices"][0]["logprobs"]["content"][0]
    assert first["token"] == "S" and len(first["top_logprobs"]) == 1
    received = chunks(client.post(CHAT, json={**fields, "stream": True}))
    streamed = [
        call["function"]["name"]
        for chunk in received
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
        if choice["index"] == 1
    ]
    assert streamed == ["a", "b"]


def test_thinking_and_a_prefix(client: httpx.Client, engine: ScriptedEngine) -> None:
    engine.script = lambda request: [THINK, "Hm", END_THINK, "Yes"]
    prefix = {"role": "assistant", "content": "Oh. ", "prefix": True}
    content = content_of(client.post(CHAT, json=body()))
    closed = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}], "closed": True}
    assert content == [closed, {"type": "text", "text": "Yes"}]
    engine.script = lambda request: ["Yes"]
    messages = [{"role": "user", "content": "Is it?"}, prefix]
    assert content_of(client.post(CHAT, json=body(messages=messages))) == "Oh. Yes"


def test_fill_in_the_middle(
    client: httpx.Client, engine: ScriptedEngine, database: Database
) -> None:
    engine.script = lambda request: ["return 1"]
    fields = {"model": "far", "prompt": "def f():\n    ", "suffix": "\n", "max_tokens": 50}
    answer = client.post("/v1/fim/completions", json=fields)
    assert content_of(answer) == "return 1"
    assert SUFFIX in engine.requests[0].prompt_token_ids
    row = row_of(database, answer)
    assert row is not None and row.endpoint == "/v1/fim/completions" and row.completion_tokens == 8
    streamed = client.post("/v1/fim/completions", json={**fields, "stream": True})
    assert text_of(chunks(streamed)) == "return 1"


@pytest.mark.parametrize("wanted", [{}, {"output_dtype": "int8"}, {"output_dimension": 8}])
def test_embeddings(
    client: httpx.Client,
    far: tuple[LiveServer, str],
    engine: ScriptedEngine,
    database: Database,
    wanted: dict[str, Any],
) -> None:
    """As the upstream gives them to whoever asks it directly."""
    server, key = far
    fields = {"model": "far", "input": ["one", "two"], **wanted}
    answer = client.post("/v1/embeddings", json=fields)
    assert answer.status_code == 200, answer.text
    direct = httpx.post(
        server.url + "/v1/embeddings", json={**fields, "model": "tiny"}, headers=bearer(key)
    ).json()
    assert np.allclose(
        [item["embedding"] for item in answer.json()["data"]],
        [item["embedding"] for item in direct["data"]],
    )
    assert answer.json()["usage"] == direct["usage"]
    packed = client.post("/v1/embeddings", json={**fields, "encoding_format": "base64"}).json()
    raw = base64.b64decode(packed["data"][1]["embedding"])
    dtype = np.int8 if "output_dtype" in wanted else np.float32
    assert np.allclose(np.frombuffer(raw, dtype), direct["data"][1]["embedding"])
    row = row_of(database, answer)
    assert row is not None and row.prompt_tokens == answer.json()["usage"]["prompt_tokens"] > 0


def test_classifiers(
    client: httpx.Client, far: tuple[LiveServer, str], engine: ScriptedEngine, database: Database
) -> None:
    server, key = far
    said = [{"role": "user", "content": "GO AWAY"}]
    asked: dict[str, tuple[str, str, Any]] = {
        "/v1/moderations": ("guard", "mistral-moderation-2411", ["GO", "AWAY"]),
        "/v1/chat/moderations": ("guard", "mistral-moderation-2411", said),
        "/v1/classifications": ("topics", "topic", "a goal"),
        "/v1/chat/classifications": ("topics", "topic", [{"messages": said}]),
    }
    for path, (name, there, given) in asked.items():
        answer = client.post(path, json={"model": name, "input": given})
        assert answer.status_code == 200, answer.text
        fields = {"model": there, "input": given}
        direct = httpx.post(server.url + path, json=fields, headers=bearer(key)).json()
        assert answer.json()["results"] == direct["results"]
        assert answer.json()["model"] == name
        row = row_of(database, answer)
        assert row is not None and (row.model, row.upstream) == (name, "there")
        assert row.prompt_tokens == direct["usage"]["prompt_tokens"] > 0


def test_models_are_listed_beside_the_own(client: httpx.Client) -> None:
    cards = {card["id"]: card for card in client.get("/v1/models").json()["data"]}
    assert {"own", "far", "guard", "topics"} <= cards.keys()
    assert cards["far"]["capabilities"]["completion_fim"]
    assert "max_context_length" not in cards["far"], "nobody said it, so nobody is told"
    assert client.get("/health").json() == {"status": "ok", "models": {"own": "ok"}}


def test_refusals_come_in_the_upstreams_words(
    client: httpx.Client, engine: ScriptedEngine, database: Database
) -> None:
    too_long = body(messages=[{"role": "user", "content": "x" * 600}])
    engine.script = lambda request: [ContextOverflowError("601 tokens are over 512")]
    answer = client.post(CHAT, json=too_long)
    data = check(answer, 400, "invalid_request_prompt", "the upstream there refused the request")
    assert data["code"] == "3051"
    assert row_of(database, answer) is None, "nothing was computed"
    engine.script = lambda request: [QueueFullError("512 requests are waiting", retry_after_s=7)]
    for stream in (False, True):
        answer = client.post(CHAT, json=body(stream=stream))
        check(answer, 429, "rate_limited", "takes no more requests now")
        assert answer.headers["retry-after"] == "7"
        assert row_of(database, answer) is None


def test_what_is_not_passed_on(client: httpx.Client, engine: ScriptedEngine) -> None:
    tools = [{"type": "web_search"}]
    check(client.post(CHAT, json=body(tools=tools)), 400, "invalid_request_error", "web_search")
    check(client.post(CHAT, json=body(logit_bias={"1": 2})), 400, "invalid_request_error", "logit")
    answer = client.post("/v1/embeddings", json={"model": "far", "input": [1, 2]})
    assert answer.status_code == 200, "token ids are the upstream's to read"
    assert engine.requests[0].prompt_token_ids == (1, 2)


def test_a_failure_in_the_middle(
    client: httpx.Client, engine: ScriptedEngine, database: Database
) -> None:
    broken = TokenEvent(0, None, "error", error="the engine failed")
    engine.script = lambda request: ["Hel", broken]
    received = chunks(client.post(CHAT, json=body(stream=True)))
    assert received[-1]["choices"][0]["finish_reason"] == "error"
    answer = client.post(CHAT, json=body())
    check(answer, 502, "upstream_failed", "ended its answer with 'error'")
    assert eventually(lambda: row_of(database, answer) is not None)
    row = row_of(database, answer)
    assert row is not None and row.status == "failed" and row.price_micros == 0


def test_leaving_cancels_there(
    near: LiveServer, engine: ScriptedEngine, database: Database
) -> None:
    engine.script = lambda request: ["Hel", 60.0, "lo"]
    with httpx.Client(base_url=near.url) as client:
        with client.stream("POST", CHAT, json=body(stream=True)) as answer:
            assert "assistant" in next(answer.iter_text())
            request_id = answer.headers["x-request-id"]
    assert eventually(lambda: engine.streams[0].is_closed)
    assert eventually(lambda: ledger.find(database, request_id) is not None)
    row = ledger.find(database, request_id)
    assert row is not None and (row.status, row.usage_known) == ("aborted", False)
    assert ledger.total(database, Period()).unknown_requests > 0


def test_the_clients_people_use(near: LiveServer, engine: ScriptedEngine) -> None:
    engine.script = answer_to
    client = Mistral(api_key="none", server_url=near.url)
    parts = (scenario.chat, scenario.stream, scenario.prefix, scenario.tools, scenario.parse)
    for part in (*parts, scenario.fim, scenario.embed):
        part(client, "far")
