"""Many prompts read at once: all of a request's texts go through the engine as one batch.

What embeddings and classifiers are made of. Knows nothing of texts or HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from cierzo.engine.readout import Reading, ReadPrompt
from cierzo.engine.request import GenerationRequest, SamplingParams
from cierzo.errors import EngineError, QueueFullError
from cierzo.server.completion import Usage
from cierzo.server.metering import REFUSALS, Metered
from cierzo.server.metrics import Metrics
from cierzo.server.text_model import Engine, TokenStream

MAX_IN_FLIGHT = 128
"""Prompts of one request that the engine holds at once: enough to fill its steps with the
shortest texts, while other requests find room in the queue."""

QUEUE_WAIT_S = 0.02
"""How often a request that has begun asks again for a place in a full queue."""

OWN_WORKSPACE = "cierzo"
"""Keys the cached prefixes of the server's own questions; no id of a workspace is this short."""

NOTHING_MORE = SamplingParams(temperature=0.0, max_tokens=0)


async def read_prompts(
    engine: Engine, prompts: Sequence[ReadPrompt], metered: Metered, metrics: Metrics
) -> tuple[list[Reading], Usage]:
    """The reading of each prompt, and what all of them cost, which is in the ledger by then.

    Raises RequestError, RateLimitError, QueueFullError when there is no room for the first,
    EngineError.
    """
    usage = Usage(0)
    reason = "aborted"
    try:
        metered.begin(usage, sum(len(prompt.token_ids) for prompt in prompts))
        workspace = metered.caller.workspace_id
        submit = partial(metered.submit, engine)
        reader = _Reader(submit, workspace, prompts, metered.request_id, usage)
        with metered.unless_refused(lambda: reader.has_read):
            readings = await reader.run()
        await metered.settle()
        reason = "stop"
        return readings, usage
    except EngineError:
        reason = "error"
        raise
    finally:
        if metered.has_computed:
            metrics.record(metered.model.id, usage, [reason])


async def read_own_prompts(engine: Engine, prompts: Sequence[ReadPrompt]) -> list[Reading]:
    """The readings of the server's own questions, which are on nobody's account and in nobody's
    prefix cache. Raises as `read_prompts`."""
    return await _Reader(engine.submit, OWN_WORKSPACE, prompts, OWN_WORKSPACE, Usage(0)).run()


class _Reader:
    """The prompts of one request on their way through the engine."""

    def __init__(
        self,
        submit: Callable[[GenerationRequest], TokenStream],
        workspace: str,
        prompts: Sequence[ReadPrompt],
        request_id: str,
        usage: Usage,
    ) -> None:
        self._submit_one = submit
        self._workspace = workspace
        self._waiting: Iterator[tuple[int, ReadPrompt]] = iter(enumerate(prompts))
        self._num_workers = min(len(prompts), MAX_IN_FLIGHT)
        self._num_in_flight = 0
        self._readings: list[Reading | None] = [None] * len(prompts)
        self._request_id = request_id
        self._usage = usage

    async def run(self) -> list[Reading]:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._num_workers):
                    group.create_task(self._work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [reading for reading in self._readings if reading is not None]

    @property
    def has_read(self) -> bool:
        return any(reading is not None for reading in self._readings)

    async def _work(self) -> None:
        for position, prompt in self._waiting:
            self._num_in_flight += 1
            try:
                self._readings[position] = await self._read(prompt)
            finally:
                self._num_in_flight -= 1

    async def _read(self, prompt: ReadPrompt) -> Reading:
        request = GenerationRequest(
            self._request_id,
            prompt.token_ids,
            NOTHING_MORE,
            workspace=self._workspace,
            readout=prompt.readout,
        )
        stream = await self._submit(request)
        self._usage.num_prompt_tokens += len(prompt.token_ids)
        try:
            async for event in stream:
                if event.reading is None:
                    raise EngineError(event.error or "the engine stopped this request")
                self._usage.num_cached_tokens += event.num_cached_tokens
                return event.reading
            raise EngineError("the engine ended this request without an answer")
        except REFUSALS:
            self._usage.num_prompt_tokens -= len(prompt.token_ids)
            raise
        finally:
            stream.close()

    async def _submit(self, request: GenerationRequest) -> TokenStream:
        """Only a request that has not begun is refused for want of room."""
        while True:
            try:
                return self._submit_one(request)
            except QueueFullError:
                if self._num_in_flight == 1 and self._usage.num_prompt_tokens == 0:
                    raise
                await asyncio.sleep(QUEUE_WAIT_S)
