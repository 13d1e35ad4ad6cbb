"""One engine step, without threads: schedule → run → sample → update.

Knows requests and token ids. Streams, threads and the queue's limits are `engine.py`'s.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field, replace
from time import perf_counter

from cierzo.config import BLOCK_SIZE, EngineConfig
from cierzo.engine.batch import Batch, build_batch
from cierzo.engine.prompt_lookup import PromptLookup
from cierzo.engine.request import GenerationRequest, TokenEvent
from cierzo.engine.runner import Model, ModelRunner
from cierzo.engine.sampler import Sample, Sampler
from cierzo.engine.scheduler import Scheduler
from cierzo.engine.sequence import Sequence
from cierzo.engine.speculation import Speculator
from cierzo.errors import ContextOverflowError, RequestError, SettingError

logger = logging.getLogger(__name__)

READY_NBYTES = 2**31
"""The most of the KV cache that `make_ready` takes before it is needed: a small model's whole."""

Events = list[tuple[int, TokenEvent]]
"""(arrival of the request, event), in the order in which they happened."""


@dataclass(slots=True)
class EngineStats:
    """The engine at one moment. `num_running` and `num_waiting` count sequences; the other
    numbers are totals since the start, but for the free blocks and the share of those in use.
    `total_decode_s` is the time of steps without prompt tokens, `total_decode_forward_s` the
    model's part of it.
    `expert_tokens[layer][expert]` counts the tokens that an expert worked on."""

    num_running: int = 0
    num_waiting: int = 0
    num_preempted: int = 0
    num_steps: int = 0
    num_computed_tokens: int = 0
    num_free_blocks: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    kv_cache_usage: float = 0.0
    total_step_s: float = 0.0
    total_decode_s: float = 0.0
    total_decode_forward_s: float = 0.0
    expert_tokens: list[list[int]] = field(default_factory=list)


class EngineCore:
    """Everything of the engine that one thread can do alone. `speculator` guesses ahead where
    `config` wants that; None: from what each sequence said before."""

    def __init__(
        self, model: Model, config: EngineConfig, speculator: Speculator | None = None
    ) -> None:
        self.config = config
        self._speculator = speculator or Speculator(PromptLookup()) if config.speculation else None
        self.scheduler = Scheduler(config, model.config, self._speculator)
        needed = self.scheduler.blocks_to_hold(config.max_model_len)
        if needed > config.num_blocks:
            raise SettingError(
                f"num_blocks ({config.num_blocks}) is too small: one sequence of max_model_len "
                f"{config.max_model_len} tokens needs {needed} blocks of {BLOCK_SIZE}; raise "
                "num_blocks or lower max_model_len"
            )
        self.runner = ModelRunner(model, config.num_blocks)
        self._sampler = Sampler()
        self._requests: dict[int, list[Sequence]] = {}
        self._stats = EngineStats()
        self._forward_s = 0.0  # of the last pass
        block_nbytes = model.config.kv_bytes_per_token() * BLOCK_SIZE  # at most: int8 takes half
        self._max_ready = min(config.num_blocks, READY_NBYTES // block_nbytes)
        self._num_ready = 0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def check(self, request: GenerationRequest) -> None:
        """Raise RequestError or ContextOverflowError for a request that can never run."""
        vocab_size = self.runner.model.config.vocab_size
        prompt, params = request.prompt_token_ids, request.params
        if not prompt:
            raise RequestError("a prompt needs at least one token; got none", param="prompt")
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            wrong = next(t for t in prompt if not 0 <= t < vocab_size)
            raise RequestError(
                f"prompt token ids must be in 0 … {vocab_size - 1}; got {wrong}", param="prompt"
            )
        for token_id in request.stop_token_ids:
            if not 0 <= token_id < vocab_size:
                raise RequestError(
                    f"stop token ids must be in 0 … {vocab_size - 1}; got {token_id}", param="stop"
                )
        for token_id in request.readout.token_ids if request.readout is not None else ():
            if not 0 <= token_id < vocab_size:
                raise RequestError(
                    f"a readout's token ids must be in 0 … {vocab_size - 1}; got {token_id}",
                    param="readout",
                )
        self._check_length(len(prompt), params.max_tokens)

    def _check_length(self, num_prompt_tokens: int, max_tokens: int | None) -> None:
        limit = self.config.max_model_len
        if num_prompt_tokens >= limit:
            raise ContextOverflowError(
                f"the prompt has {num_prompt_tokens} tokens, but prompt and answer together may "
                f"have {limit}; shorten the prompt",
                param="prompt",
            )
        if num_prompt_tokens + (max_tokens or 0) > limit:
            raise ContextOverflowError(
                f"the prompt's {num_prompt_tokens} tokens + max_tokens {max_tokens} = "
                f"{num_prompt_tokens + (max_tokens or 0)}, over the context of {limit}; "
                f"lower max_tokens to {limit - num_prompt_tokens} or shorten the prompt",
                param="max_tokens",
            )

    def is_live(self, arrival: int) -> bool:
        return arrival in self._requests

    def add(self, arrival: int, request: GenerationRequest) -> Events:
        """Queue a checked request under the number `arrival`, larger than any before.

        Returns error events when it cannot be, as when its grammar fails to fork for n > 1.
        """
        try:
            sequences = self._sequences(arrival, request)
        except Exception as error:  # it ends its own request, not the engine
            message = f"the request could not be started: {type(error).__name__}: {error}"
            indices = range(request.params.n)
            return [(arrival, TokenEvent(i, None, "error", error=message)) for i in indices]
        self._requests[arrival] = sequences
        self.scheduler.add(sequences[0])
        return []

    def _sequences(self, arrival: int, request: GenerationRequest) -> list[Sequence]:
        params, limit = request.params, self.config.max_model_len
        seed = secrets.randbits(64) if params.seed is None else params.seed % 2**64
        length, is_answered = len(request.prompt_token_ids), params.max_tokens != 0
        prompt_end = self.runner.prompt_end(length, is_answered)
        leader = Sequence(request, arrival, limit, seed, prompt_end=prompt_end)
        for index in range(1, params.n):
            leader.siblings.append(
                Sequence(request, arrival, limit, seed, leader, index, prompt_end=prompt_end)
            )
        return [leader, *leader.siblings]

    def abort(self, arrival: int, index: int | None = None) -> None:
        """End a request, or one of its sequences, without an event. Unknown ones are ignored."""
        for sequence in reversed(self._requests.get(arrival, ())):
            if index is None or sequence.index == index:
                self.scheduler.finish(sequence, "stop")
        self._forget_finished(arrival)

    def step(self) -> Events:
        """Compute one batch; returns what each sequence should hear of it."""
        started = perf_counter()
        batch = self.scheduler.schedule()
        self.runner.copy_blocks(self.scheduler.take_copies())
        if batch is None:
            return []
        try:
            samples = self._compute(batch)
        except Exception:
            logger.exception("a step failed; its sequences are computed one by one")
            return self._step_apart(batch)
        events = self._number(self.scheduler.update(batch, samples))
        self._count(batch, samples, perf_counter() - started)
        return events

    def make_ready(self) -> bool:
        """Write to one block that was never held. False when there is no more to do.

        The system clears memory when it is first written, which may take longer than to compute
        what goes there.
        """
        block = max(self._num_ready, self.scheduler.pool.num_ever_held)
        if block >= self._max_ready:
            return False
        self.runner.copy_blocks([(0, block)])  # what stands there means nothing
        self._num_ready = block + 1
        return True

    def fail_all(self, message: str) -> Events:
        """End every request with an error event."""
        self.scheduler.take_copies()  # of a step that will not be: their blocks are free now
        return [event for arrival in list(self._requests) for event in self._end(arrival, message)]

    def stats(self) -> EngineStats:
        """The engine as of now: a copy."""
        scheduler, pool = self.scheduler, self.scheduler.pool
        return replace(
            self._stats,
            num_running=len(scheduler.running),
            num_waiting=scheduler.num_waiting,
            num_preempted=scheduler.num_preempted,
            num_draft_tokens=scheduler.num_draft_tokens,
            num_accepted_tokens=scheduler.num_accepted_tokens,
            num_free_blocks=pool.num_free,
            kv_cache_usage=1 - pool.num_free / pool.num_blocks,
            expert_tokens=self.runner.model.expert_tokens.tolist(),
        )

    def _compute(self, batch: Batch) -> list[list[Sample]]:
        started = perf_counter()
        logits = self.runner.run(batch)
        self._forward_s = perf_counter() - started
        return self._sampler.sample(batch, logits)

    def _step_apart(self, batch: Batch) -> Events:
        """A step that failed, sequence by sequence: only who cannot be computed ends. The others'
        rows depend on themselves alone, so they never notice."""
        events: Events = []
        for sequence, count in batch.scheduled:
            if sequence.is_finished:  # with its request, for which another one failed
                continue
            alone = build_batch([(sequence, count)])
            try:
                samples = self._compute(alone)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                request_id = sequence.request.request_id
                fields = {"request_id": request_id}
                kind = type(error).__name__
                logger.error("request %s failed: %s", request_id, kind, extra={"fields": fields})
                message = f"the engine could not compute this request: {reason}"
                events += self._end(sequence.arrival, message)
                continue
            events += self._number(self.scheduler.update(alone, samples))
        return events

    def _end(self, arrival: int, message: str) -> Events:
        """End what still lives of a request with error events."""
        live = [s for s in self._requests.get(arrival, ()) if not s.is_finished]
        for sequence in reversed(live):
            self.scheduler.finish(sequence, "error")
        self._forget_finished(arrival)
        return [(arrival, sequence.event(error=message)) for sequence in live]

    def _number(self, events: list[tuple[Sequence, TokenEvent]]) -> Events:
        """Events by request. One sequence's error is the end of all its request's sequences."""
        numbered = [(sequence.arrival, event) for sequence, event in events]
        for sequence, event in events:
            if event.error is not None:
                numbered += self._end(sequence.arrival, event.error)
            elif sequence.is_finished:
                self._forget_finished(sequence.arrival)
        return numbered

    def _forget_finished(self, arrival: int) -> None:
        if all(s.is_finished for s in self._requests.get(arrival, ())):
            self._requests.pop(arrival, None)

    def _count(self, batch: Batch, samples: list[list[Sample]], step_s: float) -> None:
        stats = self._stats
        stats.num_steps += 1
        stats.num_computed_tokens += batch.num_tokens
        stats.total_step_s += step_s
        if len(batch.logits_rows) < batch.num_tokens or batch.prompt_rows:
            return  # not only completion tokens
        stats.total_decode_s += step_s
        stats.total_decode_forward_s += self._forward_s
        if self._speculator is not None:
            num_guessed = batch.num_tokens - len(batch.scheduled)
            num_right = sum(map(len, samples)) - len(samples)
            self._speculator.observe(batch.num_tokens, num_guessed, num_right, step_s)
