"""Asks an engine's own thread for a sign of life, so that "healthy" means it takes steps."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from threading import Thread

from cierzo.errors import EngineStoppedError
from cierzo.server.text_model import Engine

ANSWER_S = 2.0
"""How long one health check waits for the engine."""

PAUSE_S = 0.01

STUCK_S = 60.0
"""A single step may be long (a large model's prefill); silence beyond this is no step."""


class HealthProbe:
    """One engine's probe. At most one question is open, on a thread of its own: a stuck engine
    must not use up the threads that other requests are prepared on."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked_s = 0.0
        self._question: Thread | None = None

    async def is_healthy(self) -> bool:
        if not self._engine.is_healthy():
            return False
        if self._question is None or not self._question.is_alive():
            self._asked_s = time.monotonic()
            self._question = Thread(target=self._ask, name="cierzo-health", daemon=True)
            self._question.start()
        patience_s = 0.0
        while self._question.is_alive() and patience_s < ANSWER_S:
            await asyncio.sleep(PAUSE_S)
            patience_s += PAUSE_S
        return not self._question.is_alive() or time.monotonic() - self._asked_s < STUCK_S

    def _ask(self) -> None:
        with suppress(EngineStoppedError):  # `Engine.is_healthy` tells it better
            self._engine.call(_nothing)


def _nothing() -> None:
    """What the engine's thread is asked to do between two steps."""
