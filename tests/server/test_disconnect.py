"""A client that leaves stops costing; a slow stream is kept alive; a drain ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from cierzo.engine.request import TokenEvent
from cierzo.server.config import ServerConfig
from tests.server.conftest import scripted_model
from tests.server.live import LiveServer, live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_chat import CHAT, body, chunks
from tests.waiting import eventually


def ask_and_leave(url: str, fields: dict[str, Any], once: Callable[[], bool]) -> None:
    """Post `fields`, and hang up before an answer, as soon as `once` holds."""
    at = urlsplit(url)
    connection = HTTPConnection(at.netloc)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", at.path, json.dumps(fields), headers)
    assert eventually(once)
    connection.close()


def test_leaving_a_stream_aborts(shared_server: LiveServer, engine: ScriptedEngine) -> None:
    engine.script = lambda request: ["Hel", 60.0, "lo"]
    with httpx.Client(base_url=shared_server.url) as client:
        with client.stream("POST", CHAT, json=body(stream=True)) as answer:
            pieces = answer.iter_text()
            assert "assistant" in next(pieces)
            assert not engine.streams[0].is_closed
    assert eventually(lambda: engine.streams[0].is_closed)
    assert engine.streams[0].num_events <= 3, "nothing came of what follows the pause"


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_before_the_first_token_aborts(
    shared_server: LiveServer, engine: ScriptedEngine, stream: bool
) -> None:
    engine.script = lambda request: [60.0, "lo"]
    ask_and_leave(shared_server.url + CHAT, body(stream=stream), lambda: bool(engine.streams))
    assert eventually(lambda: engine.streams[0].is_closed)
    assert engine.streams[0].num_events == 0
    metrics = httpx.get(shared_server.url + "/metrics").text
    assert 'cierzo_request_finished_total{finish_reason="aborted",model="tiny"}' in metrics


def test_slow_streams_get_pings() -> None:
    engine = ScriptedEngine(lambda request: [0.2, "ab", 0.2, "c"])
    with live_server([scripted_model(engine)], ServerConfig(ping_interval_s=0.05)) as server:
        answer = httpx.post(server.url + CHAT, json=body(stream=True))
    before, _, after = answer.text.partition("data: ")
    assert before.startswith(": ping\n\n")
    assert ": ping\n\n" in after
    assert chunks(answer)[-1]["choices"][0]["finish_reason"] == "stop"


def test_an_error_after_a_ping_closes_the_connection() -> None:
    """The status is out; a clean end would be taken for a whole answer."""
    engine = ScriptedEngine(lambda request: [0.2, ValueError("boom")])
    with live_server([scripted_model(engine)], ServerConfig(ping_interval_s=0.05)) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(server.url + CHAT, json=body(stream=True))


def test_an_engine_error_after_a_ping_has_its_finish_reason() -> None:
    stopped = TokenEvent(0, None, "error", error="the engine was stopped")
    engine = ScriptedEngine(lambda request: [0.2, stopped])
    with live_server([scripted_model(engine)], ServerConfig(ping_interval_s=0.05)) as server:
        answer = httpx.post(server.url + CHAT, json=body(stream=True))
    (chunk,) = chunks(answer)
    assert chunk["choices"][0]["finish_reason"] == "error"


def test_drain_lets_running_requests_finish() -> None:
    rest = threading.Event()
    engine = ScriptedEngine(lambda request: ["Hel", rest, "lo"])
    with live_server([scripted_model(engine)]) as server:
        answers: list[httpx.Response] = []
        client = threading.Thread(
            target=lambda: answers.append(httpx.post(server.url + CHAT, json=body()))
        )
        client.start()
        assert eventually(lambda: bool(engine.streams))
        server.stop()
        assert eventually(lambda: not is_reachable(server.url))
        rest.set()
        client.join()
        server.thread.join()
        assert answers[0].json()["choices"][0]["message"]["content"] == "Hello"
    assert engine.is_closed


def is_reachable(url: str) -> bool:
    try:
        httpx.get(url + "/health")
    except httpx.TransportError:
        return False
    return True


def test_drain_cuts_off_what_outlasts_it() -> None:
    engine = ScriptedEngine(lambda request: ["Hel", 60.0, "lo"])
    with live_server([scripted_model(engine)], ServerConfig(drain_s=0.2)) as server:
        with httpx.stream("POST", server.url + CHAT, json=body(stream=True)) as answer:
            lines = answer.iter_lines()
            assert "assistant" in next(lines)
            server.stop()
            received = [line for line in lines if line.startswith("data: {")]
        assert json.loads(received[-1][6:])["choices"][0]["finish_reason"] == "error"
        server.thread.join()
