"""Requests through the real engine, real prompts, real grammars: what must hold of any model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx2 as httpx
import pytest

from cierzo.engine import Engine
from cierzo.server.chat_text import SAFE_PROMPT
from tests.sdk import scenario
from tests.server.live import LiveServer
from tests.server.test_chat import CHAT, body, chunks, text_of
from tests.server.tiny_server import num_submitted, tekken, tiny_server
from tests.waiting import eventually

WEATHER = scenario.TOOL


@pytest.fixture(scope="module")
def gate() -> Event:
    """While it is not set, the model computes nothing."""
    gate = Event()
    gate.set()
    return gate


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, gate: Event
) -> Iterator[tuple[LiveServer, Engine]]:
    with tiny_server(tekken(tmp_path_factory.mktemp("tekken"), "v13"), gate=gate) as server:
        yield server


@pytest.fixture
def client(running: tuple[LiveServer, Engine]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running[0].url) as http:
        yield http


def choice(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    first: dict[str, Any] = answer.json()["choices"][0]
    return first


def test_mistralai(running: tuple[LiveServer, Engine]) -> None:
    scenario.main(running[0].url, "tiny")


def test_streamed_is_whole(client: httpx.Client) -> None:
    fields = body(max_tokens=30, random_seed=5, n=3, temperature=1.0)
    whole = client.post(CHAT, json=fields).json()
    received = chunks(client.post(CHAT, json={**fields, "stream": True}))
    for index, each in enumerate(whole["choices"]):
        assert text_of(received, index) == each["message"]["content"]
    assert received[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_cached_tokens_are_reported(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "The same long question again. " * 10}]
    first, second = (
        client.post(CHAT, json=body(messages=messages, max_tokens=1)).json()["usage"]
        for _ in range(2)
    )
    # What every conversation begins with may have been cached.
    assert first["prompt_tokens_details"]["cached_tokens"] <= 2
    assert second["prompt_tokens_details"]["cached_tokens"] == second["prompt_tokens"] - 1


def test_logprobs_of_the_real_sampler(client: httpx.Client) -> None:
    fields = body(max_tokens=4, logprobs=True, top_logprobs=3, temperature=0.0)
    fields |= {"prompt_logprobs": True}
    answer = choice(client.post(CHAT, json=fields))
    for entry in answer["logprobs"]["content"]:
        assert entry["token_id"] == entry["top_logprobs"][0]["token_id"]
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"] < 0
        assert len(entry["top_logprobs"]) == 3
    usage = client.post(CHAT, json=fields).json()["usage"]
    assert len(answer["prompt_logprobs"]["content"]) == usage["prompt_tokens"] - 1


def test_max_tokens_zero(client: httpx.Client) -> None:
    answer = choice(client.post(CHAT, json=body(max_tokens=0)))
    assert (answer["message"]["content"], answer["finish_reason"]) == ("", "length")


def test_context_overflow(client: httpx.Client) -> None:
    long = [{"role": "user", "content": "wind " * 600}]
    for fields in (body(messages=long), body(max_tokens=512)):
        for stream in (False, True):
            answer = client.post(CHAT, json={**fields, "stream": stream})
            assert answer.status_code == 400
            assert answer.json()["code"] == "3051"
            assert "512" in answer.json()["message"]


def test_model_length(client: httpx.Client) -> None:
    fields = body(messages=[{"role": "user", "content": "wind " * 250}])
    answer = choice(client.post(CHAT, json={**fields, "min_tokens": 300, "temperature": 0}))
    assert answer["finish_reason"] in ("model_length", "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_json_schema(client: httpx.Client, stream: bool) -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["wind", "rain"]},
            "levels": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        },
        "required": ["kind", "levels"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    fields = body(response_format=wanted, n=3, temperature=1.0, stream=stream, max_tokens=200)
    fields["random_seed"] = 1
    answer = client.post(CHAT, json=fields)
    if stream:
        texts = [text_of(chunks(answer), index) for index in range(3)]
    else:
        texts = [each["message"]["content"] for each in answer.json()["choices"]]
    for text in texts:
        value = json.loads(text)
        assert set(value) == {"kind", "levels"} and value["kind"] in ("wind", "rain")
        assert len(value["levels"]) <= 3


def test_a_schema_that_cannot_be_held(client: httpx.Client) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}
    answer = client.post(CHAT, json=body(response_format=wanted))
    assert answer.status_code == 400
    assert answer.json()["param"] == "response_format"


def test_prefix_begins_the_constrained_answer(client: httpx.Client) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"enum": ["wind", "rain"]}}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Which?"},
        {"role": "assistant", "content": '"ra', "prefix": True},
    ]
    fields = body(response_format=wanted, messages=messages, random_seed=1)
    assert choice(client.post(CHAT, json=fields))["message"]["content"] == '"rain"'
    messages[1]["content"] = "Well"
    answer = client.post(CHAT, json=fields)
    assert answer.status_code == 400
    assert "the prefix 'Well' does not begin" in answer.json()["message"]


@pytest.mark.parametrize("version", ["v3", "v7", "v11", "v13"])
def test_tools_in_every_spelling(tmp_path_factory: pytest.TempPathFactory, version: str) -> None:
    """Forced, named, at most one, none: whole and streamed."""
    other = json.loads(json.dumps(WEATHER))
    other["function"]["name"] = "other"
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({"tool_choice": "any"}, {"weather", "other"}),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, {"other"}),
        ({"tool_choice": "required", "parallel_tool_calls": False}, {"weather", "other"}),
    ]
    with tiny_server(tekken(tmp_path_factory.mktemp("tekken"), version)) as (server, _):
        for fields, names in cases:
            fields = body(tools=[WEATHER, other], random_seed=1, max_tokens=300, **fields)
            answer = choice(httpx.post(server.url + CHAT, json=fields))
            assert answer["finish_reason"] == "tool_calls"
            calls = answer["message"]["tool_calls"]
            assert {call["function"]["name"] for call in calls} <= names
            for call in calls:
                assert set(json.loads(call["function"]["arguments"])) == {"city"}
            if "parallel_tool_calls" in fields:
                assert len(calls) == 1
            received = chunks(httpx.post(server.url + CHAT, json={**fields, "stream": True}))
            deltas = [chunk["choices"][0]["delta"] for chunk in received]
            streamed = [call for delta in deltas for call in delta.get("tool_calls", ())]
            assert [call["function"] for call in streamed] == [call["function"] for call in calls]
        fields = body(tools=[WEATHER], tool_choice="none", max_tokens=20, random_seed=1)
        answer = choice(httpx.post(server.url + CHAT, json=fields))
        assert answer["message"]["tool_calls"] is None


def test_tool_choice_that_the_tools_do_not_bear(client: httpx.Client) -> None:
    named = {"type": "function", "function": {"name": "absent"}}
    for fields in (body(tool_choice="any"), body(tools=[WEATHER], tool_choice=named)):
        answer = client.post(CHAT, json=fields)
        assert (answer.status_code, answer.json()["code"]) == (400, "3280")


def test_safe_prompt_comes_first(client: httpx.Client) -> None:
    def num_prompt_tokens(**fields: Any) -> int:
        answer = client.post(CHAT, json=body(max_tokens=1, **fields))
        return int(answer.json()["usage"]["prompt_tokens"])

    system = {"role": "system", "content": SAFE_PROMPT}
    spelled_out = num_prompt_tokens(messages=[system, {"role": "user", "content": "Hi"}])
    assert num_prompt_tokens(safe_prompt=True) == spelled_out > num_prompt_tokens()


def test_options_that_this_format_does_not_have(client: httpx.Client) -> None:
    for name, value in (("reasoning_effort", "high"), ("prompt_mode", "reasoning")):
        answer = client.post(CHAT, json=body(**{name: value}))
        assert (answer.status_code, answer.json()["param"]) == (400, name)


def num_live(engine: Engine) -> int:
    stats = engine.stats()
    return stats.num_running + stats.num_waiting


def test_leaving_frees_the_engine(running: tuple[LiveServer, Engine], gate: Event) -> None:
    """In a stream's middle, with a step under way."""
    server, engine = running
    fields = body(max_tokens=400, min_tokens=400, stream=True, n=4)
    with httpx.stream("POST", server.url + CHAT, json=fields) as answer:
        pieces = answer.iter_text()
        next(pieces)
        gate.clear()
        is_running = num_live(engine) == 4
    gate.set()
    assert is_running
    assert eventually(lambda: num_live(engine) == 0)
    assert httpx.get(server.url + "/health").json()["models"] == {"tiny": "ok"}


def test_past_the_queue(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One runs, one waits, the third is told when to come back."""
    tokenizer = tekken(tmp_path_factory.mktemp("tekken"), "v13")
    gate = Event()
    with tiny_server(tokenizer, gate=gate, max_running=1, max_waiting=1) as (server, engine):
        fields = body(max_tokens=1)
        with ThreadPoolExecutor() as threads:
            first = threads.submit(httpx.post, server.url + CHAT, json=fields)
            assert eventually(lambda: engine.stats().num_running == 1)
            second = threads.submit(httpx.post, server.url + CHAT, json=fields)
            assert eventually(lambda: num_submitted(engine) == 2)
            answer = httpx.post(server.url + CHAT, json=fields)
            gate.set()
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert [done.result().status_code for done in (first, second)] == [200, 200]
