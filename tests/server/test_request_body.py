"""Bodies whose declared length makes no sense are read for what they are."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from cierzo.server import request_body
from cierzo.server.request_body import parse_json, read_body
from cierzo.server.schemas.chat import FunctionName
from tests.server.conftest import scripted_model
from tests.server.live import live_server
from tests.server.scripted import ScriptedEngine

BODY = b'{"name": "weather"}'


def read(declared: str, max_bytes: int = 100) -> FunctionName:
    async def receive() -> Message:
        return {"type": "http.request", "body": BODY, "more_body": False}

    headers = [(b"content-length", declared.encode("latin-1"))]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    return asyncio.run(read_body(request, partial(parse_json, schema=FunctionName), max_bytes))


@pytest.mark.parametrize("declared", ["²", "-1", "x", "", "9" * 5000, "0"])
def test_nonsense_lengths(declared: str) -> None:
    assert read(declared).name == "weather"


@pytest.mark.parametrize("declared", ["101", "9" * 20])
def test_declared_too_large(declared: str) -> None:
    with pytest.raises(HTTPException) as caught:
        read(declared)
    assert caught.value.status_code == 413


def test_too_large_whatever_was_declared() -> None:
    with pytest.raises(HTTPException):
        read("²", max_bytes=5)


def test_half_a_body_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "MAX_PAUSE_S", 0.2)
    engine = ScriptedEngine(lambda request: ["Hello"])
    with live_server([scripted_model(engine)]) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
            )
            answer = client.makefile("rb").read()  # to the end: the server hangs up
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"body paused for 0.2 s after 1 bytes" in answer
    assert not engine.streams
