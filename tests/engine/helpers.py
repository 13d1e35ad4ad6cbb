"""Short ways to make requests and to run an engine core until it has nothing to do."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cierzo.config import EngineConfig
from cierzo.engine.core import EngineCore
from cierzo.engine.prompt_lookup import Draft
from cierzo.engine.request import GenerationRequest, SamplingParams, TokenEvent
from cierzo.engine.sequence import Sequence
from cierzo.engine.speculation import Drafter, Speculator
from tests.engine.fake_model import VOCAB_SIZE, FakeModel

GREEDY = SamplingParams(temperature=0.0, max_tokens=20)


def make_core(
    model: FakeModel | None = None, drafter: Drafter | None = None, **config: Any
) -> EngineCore:
    """Small, and without guesses unless a `drafter` makes them."""
    fields: dict[str, Any] = {"max_model_len": 256, "token_budget": 64, "max_running": 16}
    fields |= {"num_blocks": 64, "speculation": drafter is not None} | config
    speculator = None if drafter is None else Eager(drafter)
    return EngineCore(model or FakeModel(), EngineConfig(**fields), speculator)


def prompt_of(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, VOCAB_SIZE, length).tolist())


def make_request(
    prompt: Iterable[int], params: SamplingParams = GREEDY, **fields: Any
) -> GenerationRequest:
    return GenerationRequest("r", tuple(prompt), params, **fields)


class Eager(Speculator):
    """Finds every row nearly free, so that all guesses are tried, on any machine."""

    def observe(self, num_rows: int, num_guessed: int, num_right: int, step_s: float) -> None:
        super().observe(num_rows, num_guessed, num_right, 1 + 1e-6 * num_rows)


def other(token_id: int) -> int:
    """A token that is not this one."""
    return token_id - 1 if token_id > 0 else 1


class Oracle:
    """Guesses from the texts that it is told, by (arrival, sequence index). Every guess is made
    wrong with the chance `wrong`, and all are said to be certain, so that all are tried."""

    def __init__(self, wrong: float = 0.0, seed: int = 0) -> None:
        self.texts: dict[tuple[int, int], list[int]] = {}
        self._wrong, self._chooser = wrong, random.Random(seed)

    def draft(self, sequence: Sequence, least_chance: float, max_tokens: int) -> Draft:
        start = sequence.num_completion_tokens
        text = self.texts[sequence.arrival, sequence.index][start : start + max_tokens]
        guesses = [other(t) if self._chooser.random() < self._wrong else t for t in text]
        return Draft(guesses, [1.0] * len(guesses))


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
