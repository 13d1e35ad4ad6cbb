"""A rest for an upstream that fails, and quick answers for those who would wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable

MAX_FAILURES = 5
"""Requests in a row; then it is given a rest."""

REST_S = 10.0


class CircuitBreaker:
    """Counts what becomes of requests to one upstream. One event loop uses it.

    After a rest one request is let through; the others wait until it has done well, or for one
    more rest.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_failures = 0
        self._rests_until_s = 0.0

    def wait_s(self) -> float:
        """How long nothing may be sent; 0.0 for whoever may send now."""
        now_s = self._clock()
        if self._num_failures < MAX_FAILURES:
            return 0.0
        if now_s < self._rests_until_s:
            return self._rests_until_s - now_s
        self._rests_until_s = now_s + REST_S
        return 0.0

    @property
    def is_open(self) -> bool:
        """While it rests, and until it has done well again."""
        return self._num_failures >= MAX_FAILURES

    def note_success(self) -> None:
        self._num_failures = 0

    def note_failure(self) -> None:
        self._num_failures += 1
        self._rests_until_s = self._clock() + REST_S
