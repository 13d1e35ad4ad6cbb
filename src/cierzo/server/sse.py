"""Server-sent events: framing, keep-alive comments, and noticing that the client left.

Knows bytes and time; nothing of chat.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cierzo.errors import EngineError

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"

Result = TypeVar("Result")


def event(payload: dict[str, Any]) -> bytes:
    """One unnamed event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


async def run_until_disconnect(work: Coroutine[Any, Any, Result], receive: Receive) -> Result:
    """`work`'s result; when the client leaves first, cancel it and raise ClientDisconnect.

    The request's body must have been read before, so that only a disconnect can arrive.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        watch.cancel()
        await _end(task)


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task unless it is done. Its error has been seen, or nobody is left to see it; raised
    a second time it would forget where it came from."""
    with suppress(asyncio.CancelledError, Exception):
        if task.done():
            task.exception()
        else:
            task.cancel()
            await task


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class SseResponse(Response):
    """A stream of ready-made events.

    Nothing is sent before the first event, or the first ping: an error up to then is
    still a proper HTTP error. Every `ping_interval_s` without an event a comment goes
    out, so that no client's read timeout fires on a slow step. `events` is closed when
    the client leaves. Where a ping has gone out and then `events` fails before its first,
    `last_words` says so in place of the status that can no longer be sent.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        ping_interval_s: float,
        last_words: Callable[[EngineError], bytes],
        headers: dict[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(
            {"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})}
        )
        self._events = events
        self._ping_interval_s = ping_interval_s
        self._last_words = last_words
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await run_until_disconnect(self._send_all(send), receive)
        except ClientDisconnect:
            return

    async def _send_all(self, send: Send) -> None:
        first = asyncio.ensure_future(anext(self._events, None))
        pings: asyncio.Task[None] | None = None
        try:
            await asyncio.wait((first,), timeout=self._ping_interval_s)
            if first.done():
                first.result()  # raises what went wrong before the first event
            await self._start(send)
            now_s = asyncio.get_running_loop().time
            self._last_sent = now_s()
            pings = asyncio.ensure_future(self._ping(send, overdue=not first.done()))
            try:
                chunk = await first
            except EngineError as error:
                chunk = self._last_words(error)
            while chunk is not None:
                self._last_sent = now_s()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
                chunk = await anext(self._events, None)
            pings.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if pings is not None:
                pings.cancel()
            await _end(first)
            await self._events.aclose()

    async def _start(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )

    async def _ping(self, send: Send, *, overdue: bool) -> None:
        """A comment after every `ping_interval_s` of silence. A timer, not a wait per event."""
        loop = asyncio.get_running_loop()
        if overdue:
            self._last_sent -= self._ping_interval_s
        while True:
            silence_s = loop.time() - self._last_sent
            if silence_s < self._ping_interval_s:
                await asyncio.sleep(self._ping_interval_s - silence_s)
                continue
            self._last_sent = loop.time()
            await send({"type": "http.response.body", "body": PING, "more_body": True})
