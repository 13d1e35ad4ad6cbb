"""How many lines may be computed at once: many while nobody waits, few beside those who do.

When a request comes that somebody waits for, all but the oldest `BUSY_LINES` give their places
back at once, and are computed again later. So whoever waits shares the engine with no more
of them than that, and the oldest always come to their end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cierzo.server.metering import Traffic

IDLE_LINES = 32
"""Enough to fill a step's decode batch, few enough that prompts do not push each other out."""

BUSY_LINES = 1

QUIET_S = 1.0
"""How long nobody may have waited before all places are used again: people's requests come in
rows, and what is given back is computed twice."""

Result = TypeVar("Result")


class Gate:
    """One per server; first come, first served. `watch` runs as long as it is used."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._inside: list[asyncio.Task[Any]] = []  # oldest first
        self._changed = asyncio.Condition()

    async def run(self, make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """`make`'s result, made anew as often as its place is taken back."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: len(self._inside) < self._width)
                task = asyncio.ensure_future(make())
                self._inside.append(task)
            try:
                await asyncio.wait((task,))
            finally:
                is_yielded = task not in self._inside
                if not is_yielded:
                    self._inside.remove(task)
                task.cancel()
                async with self._changed:
                    self._changed.notify_all()
            if not (is_yielded and task.cancelled()):
                return task.result()

    async def watch(self) -> None:
        """Take places back when somebody comes, and give them again when it is quiet."""
        while True:
            self._traffic.changed.clear()
            for task in self._inside[self._width :]:
                self._inside.remove(task)
                task.cancel()
            async with self._changed:
                self._changed.notify_all()
            is_busy = self._width == BUSY_LINES
            try:
                async with asyncio.timeout(QUIET_S if is_busy else None):
                    await self._traffic.changed.wait()
            except TimeoutError:
                continue

    @property
    def _width(self) -> int:
        traffic = self._traffic
        is_quiet = time.monotonic() - traffic.last_end_s >= QUIET_S
        return IDLE_LINES if traffic.num_open == 0 and is_quiet else BUSY_LINES
