"""Bodies whose declared length makes no sense are read for what they are."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from cierzo.server.request_body import parse_json, read_body
from cierzo.server.schemas.chat import FunctionName

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
