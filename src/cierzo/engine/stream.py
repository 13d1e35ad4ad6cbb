"""The caller's end of a request: its events as they come, for a thread or for asyncio.

One lock per stream; the engine's thread puts, one consumer takes. Knows nothing of the engine
but how to ask it to abort.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Condition

from cierzo.engine.request import TokenEvent

Wakeups = dict[asyncio.AbstractEventLoop, list["asyncio.Future[None]"]]
"""Futures to resolve, by the loop that must do it."""


class TokenStream:
    """The events of one request until each of its `n` sequences has finished.

    Iterate with `for` from a thread, `async for` or `take()` from a coroutine: one consumer, one
    way. Leaving early costs compute until `close()`, which is safe to call from anywhere, twice.
    """

    def __init__(self, n: int, abort: Callable[[int | None], None]) -> None:
        self._unfinished = set(range(n))
        self.has_begun = False
        self._abort = abort
        self._events: deque[TokenEvent] = deque()
        self._changed = Condition()
        self._waiter: asyncio.Future[None] | None = None

    def close(self, index: int | None = None) -> None:
        """Stop the request, or only its sequence `index`; after the engine's current step it costs
        nothing. What was not read of it is dropped, and the stream ends as if it had finished."""
        wakeups: Wakeups = {}
        with self._changed:
            is_live = bool(self._unfinished) if index is None else index in self._unfinished
            if index is None:
                self._unfinished.clear()
                self._events.clear()
            else:
                self._unfinished.discard(index)
                self._events = deque(event for event in self._events if event.index != index)
            self._wake(wakeups)
        wake_consumers(wakeups)
        if is_live:
            self._abort(index)

    def put(self, events: Iterable[TokenEvent], wakeups: Wakeups) -> None:
        """For the engine: hand over events. A waiting coroutine is added to `wakeups`."""
        with self._changed:
            self.has_begun = True
            for event in events:
                if event.index not in self._unfinished:
                    continue  # closed meanwhile
                self._events.append(event)
                if event.finish_reason is not None:
                    self._unfinished.discard(event.index)
            self._wake(wakeups)

    def fail(self, message: str, wakeups: Wakeups) -> None:
        """For the engine: end what has not ended with an error."""
        with self._changed:
            left = sorted(self._unfinished)
            self.put([TokenEvent(i, None, "error", error=message) for i in left], wakeups)

    def _wake(self, wakeups: Wakeups) -> None:
        self._changed.notify_all()
        if self._waiter is not None:
            wakeups.setdefault(self._waiter.get_loop(), []).append(self._waiter)
            self._waiter = None

    def __iter__(self) -> TokenStream:
        return self

    def __next__(self) -> TokenEvent:
        with self._changed:
            while not self._events:
                if not self._unfinished:
                    raise StopIteration
                self._changed.wait()
            return self._events.popleft()

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> TokenEvent:
        await self._wait()
        with self._changed:
            if not self._events:
                raise StopAsyncIteration
            return self._events.popleft()

    async def take(self) -> list[TokenEvent]:
        """All events that are there, after waiting for one; none at the end."""
        await self._wait()
        with self._changed:
            events = list(self._events)
            self._events.clear()
            return events

    async def _wait(self) -> None:
        """Return when there is an event, or there will be none."""
        while True:
            with self._changed:
                if self._events or not self._unfinished:
                    return
                waiter = self._waiter = asyncio.get_running_loop().create_future()
            await waiter


def wake_consumers(wakeups: Wakeups) -> None:
    """Resume the coroutines that wait for events: one call into each event loop."""
    for loop, waiters in wakeups.items():
        with suppress(RuntimeError):  # the loop is closed, so nobody reads these streams any more
            loop.call_soon_threadsafe(_resolve, waiters)


def _resolve(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
