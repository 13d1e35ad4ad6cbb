"""An upstream that fails in every way there is: retries, errors, rows, and what never leaks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import pytest

from cierzo.errors import EngineStoppedError
from cierzo.server.config import ServerConfig
from cierzo.server.upstream.client import Patience, UpstreamClient
from cierzo.server.upstream.fields import Kind
from cierzo.store import Database, ledger
from tests.server.conftest import scripted_model
from tests.server.live import LiveServer, live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_chat import CHAT, chunks, text_of
from tests.server.test_chat import body as own_body
from tests.server.test_errors import check
from tests.server.upstream.conftest import relay
from tests.server.upstream.hostile import (
    DONE,
    GOOD,
    USAGE,
    Hostile,
    Step,
    chunk,
    event,
    head,
    hostile_server,
    refusal,
)
from tests.server.upstream.test_second_cierzo import body, content_of
from tests.store.temporary import temporary_database
from tests.waiting import eventually

KEY = "sk-not-for-anybodys-eyes"


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with temporary_database() as database:
        yield database


@contextmanager
def gateway(
    database: Database, *answers: Sequence[Step], kind: Kind = "mistral"
) -> Iterator[tuple[httpx.Client, Hostile]]:
    """A client of a server whose model lives on a hostile one."""
    with hostile_server(*answers) as host:
        models = [relay(host.url, KEY, kind=kind), scripted_model(ScriptedEngine(), "own")]
        with live_server(models, database=database) as server:
            with httpx.Client(base_url=server.url, timeout=20) as client:
                yield client, host


FAILURES: dict[str, tuple[Sequence[Step], int, str, str]] = {
    "500": (refusal(500), 502, "upstream_failed", "failed (status 500)"),
    "503": (refusal(503, retry_after="9"), 503, "service_unavailable", "again in 9 s"),
    "429": (refusal(429), 429, "rate_limited", "takes no more requests"),
    "401": (refusal(401, {"message": KEY}), 502, "upstream_failed", "does not let this server in"),
    "501": (refusal(501), 400, "invalid_request_error", "does not have this"),
    "404": (refusal(404), 400, "invalid_request_error", "does not have this"),
    "400": (
        refusal(400, {"error": {"message": f"bad {KEY}", "param": "stop"}}),
        400,
        "invalid_request_error",
        "refused the request: bad [key]",
    ),
    "too long": (
        refusal(400, {"error": {"type": "exceed_context_size_error", "message": "1 over 0"}}),
        400,
        "invalid_request_prompt",
        "1 over 0",
    ),
    "422": (refusal(422, {"detail": [{"loc": ["n"]}]}), 400, "invalid_request_error", "loc"),
    "redirect": (refusal(307, location="http://127.0.0.1:1/"), 502, "upstream_failed", "307"),
    "no http": ([b"hello"], 502, "upstream_failed", "broke off"),
    "hangs up": (["reset"], 502, "upstream_failed", "broke off"),
    "no stream": ([head(200, "application/json"), b"{}"], 502, "upstream_failed", "be read"),
    "no json": ([head(), event("{oops")], 502, "upstream_failed", "no JSON object"),
    "no object": ([head(), event([1])], 502, "upstream_failed", "no JSON object"),
    "no chunk": ([head(), event({"choices": 3})], 502, "upstream_failed", "at choices"),
    "wrong choice": (
        [head(), event({"choices": [{"index": 7, "delta": {}}]})],
        502,
        "upstream_failed",
        "a choice 7",
    ),
    "an error": ([head(), event({"error": {"m": 1}})], 502, "upstream_failed", "in the middle"),
    "too many tokens": (
        [head(), chunk("Hel", usage={"prompt_tokens": 10**30})],
        502,
        "upstream_failed",
        "at usage.prompt_tokens",
    ),
    "nothing": ([head(), DONE], 502, "upstream_failed", "ended before"),
    "half": ([head(), chunk("Hel"), "reset"], 502, "upstream_failed", "broke off"),
    "half, politely": ([head(), chunk("Hel")], 502, "upstream_failed", "ended before"),
    "own reason": (
        [head(), chunk("Hel"), chunk(None, "content_filter"), DONE],
        502,
        "upstream_failed",
        "'content_filter'",
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", FAILURES)
def test_failures_become_our_errors(
    database: Database, failure: str, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """With their status where nothing was sent, as an end with "error" where something was."""
    steps, status, type_name, message = FAILURES[failure]
    caplog.set_level(logging.DEBUG)
    with gateway(database, steps) as (client, host):
        answer = client.post(CHAT, json=body(stream=stream))
        if stream and answer.status_code == 200:
            received = chunks(answer)
            assert text_of(received) == "Hel"
            assert received[-1]["choices"][0]["finish_reason"] == "error"
        else:
            check(answer, status, type_name, message)
            assert ("retry-after" in answer.headers) == (status in (429, 503))
        may_pass = failure in ("500", "429", "no http", "hangs up")
        assert len(host.requests) == (3 if may_pass else 1)
        assert f"authorization: Bearer {KEY}" in host.requests[0][0]
    assert KEY not in answer.text + str(answer.headers) + caplog.text
    request_id = answer.headers["x-request-id"]
    if status == 502:
        assert eventually(lambda: ledger.find(database, request_id) is not None)
        row = ledger.find(database, request_id)
        assert row is not None and (row.status, row.usage_known) == ("failed", False)
    else:
        assert ledger.find(database, request_id) is None


def test_a_failure_that_passes_is_not_noticed(database: Database) -> None:
    troubles: list[Sequence[Step]] = [refusal(500), ["reset"]]
    with gateway(database, *troubles, GOOD) as (client, host):
        answer = client.post(CHAT, json=body())
        assert content_of(answer) == "Hello"
        assert len(host.requests) == 3
    with gateway(database, refusal(429, retry_after="1"), GOOD) as (client, host):
        answer = client.post(CHAT, json=body(stream=True))
        assert text_of(chunks(answer)) == "Hello"
    assert answer.elapsed.total_seconds() >= 1, "the upstream said when"


def test_nothing_is_asked_again_once_something_was_sent(database: Database) -> None:
    with gateway(database, [head(), chunk("Hel"), "reset"], GOOD) as (client, host):
        received = chunks(client.post(CHAT, json=body(stream=True)))
        assert text_of(received) == "Hel"
        assert len(host.requests) == 1


def test_an_upstream_that_keeps_failing_is_given_a_rest(database: Database) -> None:
    with gateway(database, refusal(500)) as (client, host):
        for _ in range(5):
            check(client.post(CHAT, json=body()), 502, "upstream_failed", "500")
        for _ in range(2):
            answer = client.post(CHAT, json=body())
            check(answer, 503, "service_unavailable", "given a rest")
            assert 1 <= int(answer.headers["retry-after"]) <= 10
        assert len(host.requests) == 15, "what rests is not asked"
        told = client.get("/metrics").text
        assert 'cierzo_upstream_circuit_open{upstream="there"} 1.0' in told
        for outcome, count in (("failed", 15), ("at_rest", 2)):
            line = f'cierzo_upstream_requests_total{{outcome="{outcome}",upstream="there"}}'
            assert f"{line} {count}.0" in told
        own = client.post(CHAT, json=body(model="own"))
        assert own.status_code == 200, "the others go on"


def test_what_metrics_say_of_an_upstream(database: Database) -> None:
    answers: list[Sequence[Step]] = [
        GOOD,
        refusal(400),
        refusal(429, retry_after="60"),
        [head(), chunk("Hel"), 30.0],
    ]
    with gateway(database, *answers) as (client, _):

        def told(line: str) -> bool:
            return line in client.get("/metrics").text

        for _ in range(3):
            client.post(CHAT, json=body())
        with client.stream("POST", CHAT, json=body(stream=True)) as answer:
            pieces = answer.iter_text()  # who drops it leaves
            next(pieces)
            assert told('cierzo_upstream_requests_running{upstream="there"} 1.0')
        assert eventually(lambda: told('cierzo_upstream_requests_running{upstream="there"} 0.0'))
        for outcome in ("ok", "refused", "busy", "left"):
            labels = f'{{outcome="{outcome}",upstream="there"}}'
            assert told(f"cierzo_upstream_requests_total{labels} 1.0")
        assert told('cierzo_upstream_circuit_open{upstream="there"} 0.0')
        histogram = "cierzo_upstream_request_duration_seconds"
        assert told(f'{histogram}_bucket{{le="300",upstream="there"}} 1.0')
        assert told(f'{histogram}_count{{upstream="there"}} 1.0')


def test_silence_ends(database: Database) -> None:
    with hostile_server([head(), chunk("Hel"), 30.0]) as host:
        model = relay(host.url, patience=Patience(silence_s=0.2))
        with live_server([model], database=database) as server:
            answer = httpx.post(server.url + CHAT, json=body())
    check(answer, 502, "upstream_failed", "fell silent")
    assert len(host.requests) == 1, "it may have computed all the while"


def test_nobody_there(database: Database) -> None:
    with hostile_server() as host:
        gone = host.url
    with live_server([relay(gone, KEY)], database=database) as server:
        answer = httpx.post(server.url + CHAT, json=body())
        check(answer, 503, "service_unavailable", "cannot be reached")
        assert answer.headers["retry-after"] == "5"
        assert ledger.find(database, answer.headers["x-request-id"]) is None


def test_counts_that_nobody_said(database: Database) -> None:
    """The row says so; the answer has zeros, where clients insist on numbers."""
    silent: list[Step] = [head(), chunk("Hello"), chunk(None, "stop"), DONE]
    with gateway(database, silent) as (client, _):
        answer = client.post(CHAT, json=body())
        assert content_of(answer) == "Hello" and answer.json()["usage"]["total_tokens"] == 0
    row = ledger.find(database, answer.headers["x-request-id"])
    assert row is not None and (row.status, row.usage_known) == ("ok", False)


def test_counts_of_each_choice_are_added_up(database: Database) -> None:
    """As llama.cpp's server tells them; what stands beside choices is a sum so far."""

    def of(index: int, **more: Any) -> bytes:
        choice = {"index": index, "delta": {"content": "a"}, "finish_reason": "length"}
        return event({"choices": [choice], **more})

    count = event({"choices": [], "usage": USAGE})
    beside = of(1, usage={"prompt_tokens": 5, "completion_tokens": 1})
    for steps, expected in (([of(0), count, of(1), count], 4), ([of(0), beside, count], 2)):
        with gateway(database, [head(), *steps, DONE], kind="openai") as (client, _):
            usage = client.post(CHAT, json=body(n=2)).json()["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, expected)


def test_an_openai_kind_server(database: Database) -> None:
    """Its names for fields, its thinking, its pieces of tool calls, its counts at the end."""

    def piece(**call: Any) -> bytes:
        return event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})

    steps: list[Step] = [
        head(),
        event(
            {"choices": [{"index": 0, "delta": {"role": "assistant", "reasoning_content": "Hm"}}]}
        ),
        chunk("So"),
        piece(index=0, id="call_1", type="function", function={"name": "a", "arguments": ""}),
        piece(index=0, function={"arguments": '{"x":'}),
        piece(index=0, function={"arguments": " 1}"}),
        piece(index=1, id="call_2", type="function", function={"name": "b", "arguments": "{}"}),
        chunk(None, "tool_calls"),
        event({"choices": [], "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}}),
        DONE,
    ]
    fields = body(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        ],
        tools=[{"function": {"name": "a", "parameters": {}}}],
        tool_choice="any",
        random_seed=3,
        safe_prompt=True,
        metadata={"team": "x"},
        user="ana",
    )
    with gateway(database, steps, kind="openai") as (client, host):
        answer = client.post(CHAT, json=fields)
        message = answer.json()["choices"][0]["message"]
        assert [chunk["type"] for chunk in message["content"]] == ["thinking", "text"]
        calls = [call["function"] for call in message["tool_calls"]]
        assert calls == [
            {"name": "a", "arguments": '{"x": 1}'},
            {"name": "b", "arguments": "{}"},
        ]
        assert all(len(call["id"]) == 9 for call in message["tool_calls"])
        assert answer.json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
        (sent,) = host.bodies
        assert sent["seed"] == 3 and sent["tool_choice"] == "required"
        assert sent["stream_options"] == {"include_usage": True}
        assert [message["role"] for message in sent["messages"]] == ["system", "system", "user"]
        assert sent["messages"][2]["content"] == "Hi"
        assert sent["tools"][0]["type"] == "function"
        assert not {"metadata", "user", "random_seed", "safe_prompt"} & sent.keys()
        for field in ({"top_k": 3}, {"logprobs": True}, {"prompt_mode": "reasoning"}):
            answer = client.post(CHAT, json=body(**field))
            check(answer, 400, "invalid_request_error", "upstream of kind openai")
        answer = client.post("/v1/fim/completions", json={"model": "far", "prompt": "x"})
        check(answer, 400, "invalid_request_error", "cannot fill in the middle")
        assert len(host.requests) == 1


def test_what_runs_when_the_server_stops_ends(database: Database) -> None:
    with hostile_server([head(), chunk("Hel"), 30.0]) as host:
        config = ServerConfig(drain_s=0.1)
        with live_server([relay(host.url)], config, database=database) as server:
            with httpx.Client(base_url=server.url, timeout=20) as client:
                with client.stream("POST", CHAT, json=body(stream=True)) as answer:
                    lines = answer.iter_lines()
                    assert "assistant" in next(lines)
                    server.stop()
                    assert '"finish_reason":"error"' in "".join(lines)


def test_connections_are_used_again(far: tuple[LiveServer, str]) -> None:
    """The upstream's end of a stream is waited for."""
    client = UpstreamClient("there", far[0].url, far[1])
    seen = []

    async def ask_twice() -> None:
        for _ in range(2):
            exchange = client.stream(CHAT, {**own_body(), "stream": True})
            async for _ in exchange:
                pass
            pool: Any = client._http._transport
            seen.append([id(connection) for connection in pool._pool.connections])
        await client.close()

    asyncio.run(ask_twice())
    assert seen[0] == seen[1] and len(seen[0]) == 1


def test_an_exchange_that_is_left_before_it_began_tells_who_waits() -> None:
    async def leave() -> None:
        client = UpstreamClient("there", "http://127.0.0.1:9", KEY)
        exchange = client.stream(CHAT, {})
        exchange.close()
        with pytest.raises(EngineStoppedError):
            await anext(exchange)
        await client.close()

    asyncio.run(leave())


def test_what_is_refused_here_is_not_charged(database: Database) -> None:
    answer = {"data": [{"index": 0, "embedding": [0.6, 0.8]}], "usage": USAGE}
    with hostile_server(refusal(200, answer)) as host:
        with live_server([relay(host.url, kind="openai")], database=database) as server:
            url = server.url + "/v1/embeddings"
            few = httpx.post(url, json={"model": "far", "input": ["one", "two"]})
            check(few, 502, "upstream_failed", "1 results for 2 texts")
            short = httpx.post(url, json={"model": "far", "input": "one", "output_dimension": 16})
            assert short.status_code == 400, short.text
    for refused in (few, short):
        row = ledger.find(database, refused.headers["x-request-id"])
        assert row is not None and row.status != "ok" and row.price_micros == 0


def test_numbers_of_any_size_are_passed_on(database: Database) -> None:
    number = {"type": "integer", "maximum": 10**30}
    parameters = {"type": "object", "properties": {"n": number}}
    tool = {"type": "function", "function": {"name": "count", "parameters": parameters}}
    with gateway(database, GOOD) as (client, host):
        assert client.post(CHAT, json=body(tools=[tool])).status_code == 200
        assert host.bodies[0]["tools"][0]["function"]["parameters"] == parameters
