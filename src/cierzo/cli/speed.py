"""How fast an engine is: prompts of random tokens, timed as their tokens arrive.

Prefill and decode are timed apart. Prefill: a batch of prompts asked for one token each, all of it
over the time until the last one. Decode: the tokens that arrive between the moment when every
sequence has begun and the moment when the first one ends, over that time.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from cierzo.config import BLOCK_SIZE
from cierzo.engine.engine import Engine
from cierzo.engine.request import GenerationRequest, SamplingParams
from cierzo.errors import EngineError


@dataclass(frozen=True, slots=True)
class Load:
    """`batch` sequences at once: each `prompt` new tokens behind a common prefix of `cached` that
    is computed before the clock starts, then `generate` decoded. All counts are tokens."""

    batch: int
    prompt: int
    generate: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class BatchSpeed:
    """Medians over the repetitions, for `batch` sequences at once. Ranges are (least, most).

    `outside_model` is the share of a decode step's time that is not the model's: scheduling,
    sampling, and what Python costs."""

    batch: int
    prefill_tok_s: float
    decode_tok_s: float
    prefill_range: tuple[float, float]
    decode_range: tuple[float, float]
    ttft_ms: float
    tpot_ms: float
    outside_model: float


class Bench:
    """An engine under one load, its prefix computed and everything warm after one round."""

    def __init__(self, engine: Engine, vocab_size: int, load: Load) -> None:
        self._engine = engine
        self._vocab_size = vocab_size
        self._load = load
        self._chooser = random.Random(load.batch)
        self._prefix = self._random_tokens(load.cached)
        if self._prefix:
            asyncio.run(_arrivals(engine, [self._prefix], 1, 0))
        self._run(min(load.generate, 16))

    def prefill_tok_s(self) -> float:
        """New prompt tokens per second."""
        num_tokens = self._load.batch * self._load.prompt
        return num_tokens / last_first(self._run(1))

    def decode_tok_s(self) -> float:
        """Decoded tokens per second, of all sequences together."""
        return decode_rate(self._run(self._load.generate))

    def outside_model(self) -> float:
        """Share of the decode steps' time that was not the model's."""
        before = self._engine.stats()
        self._run(self._load.generate)
        after = self._engine.stats()
        forward_s = after.total_decode_forward_s - before.total_decode_forward_s
        return 1 - forward_s / (after.total_decode_s - before.total_decode_s)

    def _run(self, generate: int) -> list[list[float]]:
        # Fresh every time: a repeated prompt would come from the prefix cache.
        prompts = [
            self._prefix + self._random_tokens(self._load.prompt) for _ in range(self._load.batch)
        ]
        least_cached = self._load.cached // BLOCK_SIZE * BLOCK_SIZE
        return asyncio.run(_arrivals(self._engine, prompts, generate, least_cached))

    def _random_tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self._chooser.choices(range(self._vocab_size), k=count))


def measure(engine: Engine, vocab_size: int, load: Load, repeat: int) -> BatchSpeed:
    """One warm-up, then `repeat` rounds."""
    bench = Bench(engine, vocab_size, load)
    prefill, decode = [], []
    for _ in range(repeat):
        prefill.append(bench.prefill_tok_s())
        decode.append(bench.decode_tok_s())
    prefill_tok_s, decode_tok_s = statistics.median(prefill), statistics.median(decode)
    return BatchSpeed(
        load.batch,
        round(prefill_tok_s, 1),
        round(decode_tok_s, 1),
        (round(min(prefill), 1), round(max(prefill), 1)),
        (round(min(decode), 1), round(max(decode), 1)),
        ttft_ms=round(1000 * load.batch * load.prompt / prefill_tok_s, 2),
        tpot_ms=round(1000 * load.batch / decode_tok_s, 3) if decode_tok_s else 0.0,
        outside_model=round(bench.outside_model(), 4),
    )


async def _arrivals(
    engine: Engine, prompts: Sequence[tuple[int, ...]], generate: int, least_cached: int
) -> list[list[float]]:
    """For each prompt, when each of its tokens arrived, in seconds after submitting.

    Raises EngineError where fewer than `least_cached` of its tokens came from the prefix cache.
    """
    params = SamplingParams(temperature=0.0, max_tokens=generate)
    started = time.perf_counter()

    async def one(prompt: tuple[int, ...]) -> list[float]:
        times = []
        async for event in engine.submit(GenerationRequest(uuid4().hex, prompt, params)):
            if event.finish_reason == "error":
                raise EngineError(f"the engine failed during the measurement: {event.error}")
            if event.token_id is not None:
                times.append(time.perf_counter() - started)
                if event.num_cached_tokens < least_cached:
                    raise EngineError(
                        f"{event.num_cached_tokens} of a prefix of {least_cached} tokens came from "
                        "the cache: what was measured is another load"
                    )
        return times

    return await asyncio.gather(*(one(prompt) for prompt in prompts))


def last_first(arrivals: list[list[float]]) -> float:
    """When the last sequence had its first token."""
    return max(times[0] for times in arrivals)


def decode_rate(arrivals: list[list[float]]) -> float:
    """Tokens per second while all sequences decode.

    Where one had ended before another began (a short answer on a fast model), it is all decoded
    tokens over the time from the first token to the last.
    """
    begin, end = last_first(arrivals), min(times[-1] for times in arrivals)
    if end > begin:
        return sum(begin < when <= end for times in arrivals for when in times) / (end - begin)
    span = max(times[-1] for times in arrivals) - min(times[0] for times in arrivals)
    return sum(len(times) - 1 for times in arrivals) / span if span > 0 else 0.0
