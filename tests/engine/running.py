"""A fake model behind a real engine and its thread, for tests of what happens between threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cierzo.config import EngineConfig
from cierzo.engine import Engine, SamplingParams, TokenEvent
from cierzo.kernels import Tensor
from cierzo.models.transformer import StepArrays
from tests.engine.fake_model import FakeModel

ENDLESS = SamplingParams(temperature=0.0)


class GatedModel(FakeModel):
    """Its steps wait for `gate`; `entered` is set when one has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.entered = Event(), Event()
        self.gate.set()

    def forward(self, step: StepArrays, kv_cache: Any, logits_rows: NDArray[np.int32]) -> Tensor:
        self.entered.set()
        assert self.gate.wait(120)
        return super().forward(step, kv_cache, logits_rows)


@contextmanager
def running(model: FakeModel | None = None, **config: Any) -> Iterator[Engine]:
    fields: dict[str, Any] = {"max_model_len": 256, "token_budget": 64, "max_running": 16}
    engine = Engine(model or FakeModel(), EngineConfig(**(fields | {"num_blocks": 64} | config)))
    try:
        yield engine
    finally:
        engine.close()


def settle(engine: Engine) -> None:
    """Wait until the engine has done what was asked of it before."""
    engine._call(lambda: None)


def tokens_of(events: list[TokenEvent]) -> list[int]:
    return [event.token_id for event in events if event.token_id is not None]
