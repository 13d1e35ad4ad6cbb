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

from cierzo.engine.engine import Engine
from cierzo.engine.request import GenerationRequest, SamplingParams
from cierzo.errors import EngineError


@dataclass(frozen=True, slots=True)
class BatchSpeed:
    """Medians over the repetitions, for `batch` sequences at once. Ranges are (least, most)."""

    batch: int
    prefill_tok_s: float
    decode_tok_s: float
    prefill_range: tuple[float, float]
    decode_range: tuple[float, float]
    ttft_ms: float
    tpot_ms: float


def measure(
    engine: Engine, vocab_size: int, batch: int, prompt: int, generate: int, repeat: int
) -> BatchSpeed:
    """One warm-up, then `repeat` rounds. `prompt` and `generate` are tokens per sequence."""
    chooser = random.Random(batch)

    def prompts() -> list[tuple[int, ...]]:
        # Fresh every time: a repeated prompt would come from the prefix cache.
        return [tuple(chooser.choices(range(vocab_size), k=prompt)) for _ in range(batch)]

    asyncio.run(_arrivals(engine, prompts(), min(generate, 16)))
    prefill, decode = [], []
    for _ in range(repeat):
        prefill.append(batch * prompt / last_first(asyncio.run(_arrivals(engine, prompts(), 1))))
        decode.append(decode_rate(asyncio.run(_arrivals(engine, prompts(), generate))))
    prefill_tok_s, decode_tok_s = statistics.median(prefill), statistics.median(decode)
    return BatchSpeed(
        batch,
        round(prefill_tok_s, 1),
        round(decode_tok_s, 1),
        (round(min(prefill), 1), round(max(prefill), 1)),
        (round(min(decode), 1), round(max(decode), 1)),
        ttft_ms=round(1000 * batch * prompt / prefill_tok_s, 2),
        tpot_ms=round(1000 * batch / decode_tok_s, 3) if decode_tok_s else 0.0,
    )


async def _arrivals(
    engine: Engine, prompts: Sequence[tuple[int, ...]], generate: int
) -> list[list[float]]:
    """For each prompt, when each of its tokens arrived, in seconds after submitting."""
    params = SamplingParams(temperature=0.0, max_tokens=generate)
    started = time.perf_counter()

    async def one(prompt: tuple[int, ...]) -> list[float]:
        times = []
        async for event in engine.submit(GenerationRequest(uuid4().hex, prompt, params)):
            if event.finish_reason == "error":
                raise EngineError(f"the engine failed during the measurement: {event.error}")
            if event.token_id is not None:
                times.append(time.perf_counter() - started)
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
