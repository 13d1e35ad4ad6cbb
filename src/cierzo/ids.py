"""Identifiers that sort by time. Imports nothing of ours.

The one thing here that changes is the last moment given out: that ids ascend whatever the clock
does is a fact about the process (record 0076).
"""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from contextlib import suppress

TICKS_PER_MS = 4096  # the twelve bits between a UUIDv7's version and its variant
LATEST_MS = 253_402_300_800_000
"""The year 10000: no clock of ours was ever there."""


class _Ticks:
    """Moments that ascend, also where the clock is set back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self) -> int:
        with self._lock:
            self._last = max(time.time_ns() * TICKS_PER_MS // 1_000_000, self._last + 1)
            return self._last

    def skip_to(self, moment: int) -> None:
        with self._lock:
            self._last = max(self._last, moment)


_ticks = _Ticks()


def new_id() -> str:
    """A UUIDv7, unix milliseconds first; greater than every one before in this process."""
    ms, fraction = divmod(_ticks.next(), TICKS_PER_MS)
    value = ms << 80 | 7 << 76 | fraction << 64 | 2 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def continue_after(given_id: str) -> None:
    """From here on ids are greater than this one, which another process gave out; one that no
    `new_id` can have made, by its form or its time, is passed over."""
    with suppress(ValueError):
        value = uuid.UUID(given_id).int
        if value >> 80 < LATEST_MS:
            _ticks.skip_to((value >> 80) * TICKS_PER_MS + (value >> 64) % TICKS_PER_MS)


def now_ms() -> int:
    """Unix milliseconds, as the store keeps times."""
    return time.time_ns() // 1_000_000
