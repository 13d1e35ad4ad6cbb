"""HTTP to one upstream: its key, patience and retries, bounds on what it may send.

Nothing is asked again once something of the answer was handed on. Redirects are not followed: only
the operator says where requests go. Knows JSON; nothing of chat.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import orjson

from cierzo.errors import CierzoError, EngineError, EngineStoppedError
from cierzo.server.upstream import failures
from cierzo.server.upstream.breaker import CircuitBreaker
from cierzo.server.upstream.failures import Failure
from cierzo.server.upstream.statistics import UpstreamStatistics

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
"""To one upstream at once; more requests wait for a place, as long as for a connection."""

MAX_EVENT_NBYTES = 16 * 1024 * 1024
MAX_ANSWER_NBYTES = 256 * 1024 * 1024
MAX_REFUSAL_NBYTES = 64 * 1024

MAX_AHEAD = 256
"""Events read before anybody takes them."""

DONE = "[DONE]"
LAST_WORDS_S = 1.0
"""Between that and the stream's end."""


@dataclass(frozen=True, slots=True)
class Patience:
    """With an upstream: how long a connection may take and an answer may pause; how often a
    request is tried, with which pause after the first failure, doubled after each further one,
    and how long a pause that the upstream asks for is waited for at all."""

    connect_s: float = 10.0
    silence_s: float = 300.0
    max_attempts: int = 3
    first_pause_s: float = 0.5
    max_pause_s: float = 10.0


class UpstreamClient:
    """One per upstream, for one event loop. `key` never leaves it but in the header."""

    def __init__(
        self, name: str, url: str, key: str | None = None, patience: Patience | None = None
    ) -> None:
        self.name = name
        self._key = key
        self._patience = patience or Patience()
        self._breaker = CircuitBreaker()
        self.statistics = UpstreamStatistics(self._breaker)
        self._running: set[Exchange] = set()
        self._is_stopped = False
        connect_s = self._patience.connect_s
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={
                "user-agent": "cierzo",
                "accept-encoding": "identity",  # what unpacks without end cannot come in
                **({} if key is None else {"authorization": f"Bearer {key}"}),
            },
            timeout=httpx.Timeout(self._patience.silence_s, connect=connect_s, pool=connect_s),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=32),
            follow_redirects=False,
        )

    async def get(self, path: str) -> Any:
        """The answer's JSON. Raises EngineError, RequestError."""
        return await self._only_one("GET", path, None)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer's JSON. Raises EngineError, RequestError."""
        return await self._only_one("POST", path, body)

    def stream(self, path: str, body: dict[str, Any]) -> Exchange:
        """The events of the answer."""

        async def attempt(put: Put) -> None:
            async with self._open("POST", path, body) as response:
                events = aiter(httpx.EventSource(response, MAX_EVENT_NBYTES))
                async for event in events:
                    if event.data == DONE:
                        await _drain(events)
                        return
                    await put(self._object(event.data.encode()))

        return self._exchange(attempt)

    @property
    def is_running(self) -> bool:
        return not self._is_stopped

    @property
    def is_idle(self) -> bool:
        """True while nothing is being asked."""
        return not self._running

    async def stop(self) -> None:
        """Cut off what runs, and start nothing more. Idempotent."""
        self._is_stopped = True
        for exchange in tuple(self._running):
            exchange.close()

    async def close(self) -> None:
        await self.stop()
        await self._http.aclose()

    async def _only_one(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        async def attempt(put: Put) -> None:
            async with self._open(method, path, body) as response:
                data = await _read(response, MAX_ANSWER_NBYTES)
                if len(data) > MAX_ANSWER_NBYTES:
                    raise failures.nonsense(self.name, f"over {MAX_ANSWER_NBYTES} bytes")
            await put(self._object(data))

        exchange = self._exchange(attempt)
        try:
            async for answer in exchange:
                return answer
            raise EngineError(f"the upstream {self.name} answered nothing")
        finally:
            exchange.close()

    def _exchange(self, attempt: Attempt) -> Exchange:
        if self._is_stopped:
            raise EngineStoppedError("the server stops and asks upstreams nothing more")
        exchange = Exchange(lambda put: self._try(attempt, put), self._running.discard)
        self._running.add(exchange)
        return exchange

    async def _try(self, attempt: Attempt, put: Put) -> None:
        """`attempt`, as often as it may help while it has put nothing. Raises CierzoError."""
        has_begun = False

        async def put_on(item: dict[str, Any]) -> None:
            nonlocal has_begun
            has_begun = True
            await put(item)

        for number in range(self._patience.max_attempts):
            rest_s = self._breaker.wait_s()
            if rest_s:
                self.statistics.outcomes["at_rest"] += 1
                raise failures.away(self.name, "failed several times and is given a rest", rest_s)
            try:
                with self.statistics.measured():
                    await attempt(put_on)
                self._breaker.note_success()
                return
            except asyncio.CancelledError:
                if has_begun:  # whoever is left in the middle of an answer was there
                    self._breaker.note_success()
                raise
            except Failure as failure:
                pause_s = self._pause_s(number) if failure.wait_s is None else failure.wait_s
                is_last = number + 1 == self._patience.max_attempts
                is_too_long = pause_s > self._patience.max_pause_s
                if has_begun or is_last or is_too_long or not failure.may_pass:
                    self._note(failure)
                    raise failure.error from None
            await asyncio.sleep(pause_s)

    def _note(self, failure: Failure) -> None:
        """One that a request ends with, however often it was tried."""
        if not failure.is_down:
            self._breaker.note_success()
            return
        self._breaker.note_failure()
        logger.warning("%s", failure.error)

    def _pause_s(self, number: int) -> float:
        """Doubling, and never the same for two who failed together."""
        return self._patience.first_pause_s * 2.0**number * random.uniform(0.5, 1.0)

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> AsyncIterator[httpx.Response]:
        """An answer with status 200, its body still to come. Raises Failure, also from within."""
        # Not orjson: a schema may hold integers of any size.
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            async with self._http.stream(
                method, path, content=content, headers=headers
            ) as response:
                if response.status_code != 200:
                    told = await _read(response, MAX_REFUSAL_NBYTES)
                    raise failures.of_status(
                        self.name, response.status_code, response.headers, told, self._key
                    )
                yield response
        except httpx.HTTPError as error:
            raise failures.of_exception(self.name, error) from None

    def _object(self, data: bytes) -> dict[str, Any]:
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise failures.nonsense(self.name, "what is no JSON object")
        return value


Put = Callable[[dict[str, Any]], Awaitable[None]]
Attempt = Callable[[Put], Awaitable[None]]


class Exchange:
    """The JSON objects of one answer as they come. `close` breaks it off, from any task."""

    def __init__(
        self,
        run: Callable[[Put], Coroutine[Any, Any, None]],
        on_end: Callable[[Exchange], None],
    ) -> None:
        self._items: asyncio.Queue[dict[str, Any] | CierzoError | None] = asyncio.Queue(MAX_AHEAD)
        self._task = asyncio.ensure_future(self._pump(run))
        self._task.add_done_callback(self._tell_who_waits)
        self._task.add_done_callback(lambda task: on_end(self))

    def close(self) -> None:
        """Whoever still waits for an item is told that the server stops."""
        self._task.cancel()

    def _tell_who_waits(self, task: asyncio.Task[None]) -> None:
        """Also where the task was cancelled before it had begun."""
        if not task.cancelled():
            return
        while not self._items.empty():
            self._items.get_nowait()
        self._items.put_nowait(EngineStoppedError("the server stopped this request"))

    def __aiter__(self) -> Exchange:
        return self

    async def __anext__(self) -> dict[str, Any]:
        item = await self._items.get()
        if item is None:
            raise StopAsyncIteration
        if isinstance(item, CierzoError):
            raise item
        return item

    async def _pump(self, run: Callable[[Put], Coroutine[Any, Any, None]]) -> None:
        try:
            await run(self._items.put)
            await self._items.put(None)
        except CierzoError as error:
            await self._items.put(error)
        except Exception:
            logger.exception("reading an upstream's answer failed")
            await self._items.put(EngineError("reading the upstream's answer failed"))


async def _drain(events: AsyncIterator[Any]) -> None:
    """Let a stream come to its end, so that its connection can be used again."""
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(LAST_WORDS_S):
            async for _ in events:
                pass


async def _read(response: httpx.Response, max_nbytes: int) -> bytes:
    """The body; of a longer one a little more than `max_nbytes`."""
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > max_nbytes:
            break
    return bytes(data)
