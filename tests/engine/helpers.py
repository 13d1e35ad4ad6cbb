"""Short ways to make requests and to run an engine core until it has nothing to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cierzo.config import EngineConfig
from cierzo.engine.core import EngineCore
from cierzo.engine.request import GenerationRequest, SamplingParams, TokenEvent
from tests.engine.fake_model import VOCAB_SIZE, FakeModel

GREEDY = SamplingParams(temperature=0.0, max_tokens=20)


def make_core(model: FakeModel | None = None, **config: Any) -> EngineCore:
    fields: dict[str, Any] = {"max_model_len": 256, "token_budget": 64, "max_running": 16}
    fields |= {"num_blocks": 64} | config
    return EngineCore(model or FakeModel(), EngineConfig(**fields))


def prompt_of(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, VOCAB_SIZE, length).tolist())


def make_request(
    prompt: Iterable[int], params: SamplingParams = GREEDY, **fields: Any
) -> GenerationRequest:
    return GenerationRequest("r", tuple(prompt), params, **fields)


@dataclass
class Result:
    """All that one sequence heard."""

    events: list[TokenEvent] = field(default_factory=list)

    @property
    def token_ids(self) -> list[int]:
        return [event.token_id for event in self.events if event.token_id is not None]

    @property
    def finish_reason(self) -> str | None:
        return self.events[-1].finish_reason

    @property
    def error(self) -> str:
        return self.events[-1].error or ""


def finish_all(core: EngineCore) -> dict[tuple[int, int], Result]:
    """Step until idle. Results by (arrival, sequence index)."""
    results: defaultdict[tuple[int, int], Result] = defaultdict(Result)
    for _ in range(10_000):
        if not core.has_work:
            return dict(results)
        for arrival, event in core.step():
            results[arrival, event.index].events.append(event)
    raise AssertionError("the engine never became idle")


def run_all(core: EngineCore, requests: Iterable[GenerationRequest]) -> list[Result]:
    """The results of the requests' first sequences, all submitted at once."""
    requests = list(requests)
    for arrival, request in enumerate(requests):
        core.check(request)
        core.add(arrival, request)
    results = finish_all(core)
    return [results[arrival, 0] for arrival in range(len(requests))]


def run_one(core: EngineCore, request: GenerationRequest) -> Result:
    return run_all(core, [request])[0]


def alone(request: GenerationRequest, **config: Any) -> list[int]:
    """What the request yields in an engine of its own."""
    return run_one(make_core(**config), request).token_ids
