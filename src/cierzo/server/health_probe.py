"""Watches an engine between health checks, so that "healthy" means it takes steps."""

from __future__ import annotations

import time

from cierzo.server.text_model import Engine

STUCK_S = 60.0
"""A single step may be long (a large model's prefill); silence beyond this is no step."""


class HealthProbe:
    """One engine's probe: remembers the step that the last check saw, and since when."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._num_steps = -1
        self._since_s = 0.0

    def is_healthy(self) -> bool:
        """False when the engine's thread is dead, or has had work and not taken a step for long."""
        stats = self._engine.stats()
        is_idle = stats.num_running + stats.num_waiting == 0
        now_s = time.monotonic()
        if is_idle or stats.num_steps != self._num_steps:
            self._num_steps, self._since_s = stats.num_steps, now_s
        return self._engine.is_healthy() and now_s - self._since_s < STUCK_S
