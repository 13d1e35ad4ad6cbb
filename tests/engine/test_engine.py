"""The engine with its thread: streams, limits, what stands beside the steps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from queue import Queue
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from cierzo.engine import Engine, GenerationRequest, SamplingParams, TokenEvent
from cierzo.engine.core import Events
from cierzo.engine.stream import TokenStream, Wakeups
from cierzo.errors import (
    ContextOverflowError,
    QueueFullError,
    RequestError,
)
from tests.engine.fake_model import PROMPT_TOKEN, FakeModel, hash_logits
from tests.engine.helpers import (
    GREEDY,
    alone,
    make_request,
    prompt_of,
)
from tests.engine.running import ENDLESS, GatedModel, running, settle, tokens_of


def test_a_thread_reads_a_stream() -> None:
    request = make_request(prompt_of(30))
    with running() as engine:
        events = list(engine.submit(request))
    assert tokens_of(events) == alone(request)
    assert events[-1].finish_reason == "length"


def test_coroutines_read_streams_side_by_side() -> None:
    requests = [make_request(prompt_of(10 + i, seed=i)) for i in range(8)]

    async def read(engine: Engine, index: int) -> list[int]:
        return tokens_of([event async for event in engine.submit(requests[index])])

    async def main() -> list[list[int]]:
        with running() as engine:
            return await asyncio.gather(*(read(engine, i) for i in range(8)))

    assert asyncio.run(main()) == [alone(request) for request in requests]


def test_a_step_wakes_an_event_loop_once() -> None:
    model = GatedModel()

    async def main() -> tuple[int, int]:
        with running(model) as engine:
            loop = asyncio.get_running_loop()
            wake, num_calls = loop.call_soon_threadsafe, 0

            def counting(*args: Any, **kwargs: Any) -> Any:
                nonlocal num_calls
                num_calls += 1
                return wake(*args, **kwargs)

            async def read(seed: int) -> None:
                async for _ in engine.submit(make_request(prompt_of(8, seed=seed))):
                    pass

            loop.call_soon_threadsafe = counting  # type: ignore[method-assign, assignment]
            await asyncio.gather(*(read(seed) for seed in range(8)))
            return num_calls, engine.stats().num_steps

    num_calls, num_steps = asyncio.run(main())
    assert 1 <= num_calls <= num_steps


def test_tokens_of_one_frame_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cierzo.engine.engine.FRAME_S", 1000)
    put, counts = TokenStream.put, []

    def counting(self: TokenStream, events: list[TokenEvent], wakeups: Wakeups) -> None:
        counts.append(len(events))
        put(self, events, wakeups)

    monkeypatch.setattr(TokenStream, "put", counting)
    with running() as engine:
        assert len(list(engine.submit(make_request(prompt_of(8))))) == 20
    assert counts == [1, 19]  # the first and the last wait for nobody


def test_what_is_urgent_for_one_request_takes_nothing_of_another_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cierzo.engine.engine.FRAME_S", 1000)
    put = TokenStream.put
    counts: dict[TokenStream, list[int]] = {}

    def counting(self: TokenStream, events: list[TokenEvent], wakeups: Wakeups) -> None:
        counts.setdefault(self, []).append(len(events))
        put(self, events, wakeups)

    monkeypatch.setattr(TokenStream, "put", counting)
    model = GatedModel()
    model.gate.clear()
    with running(model) as engine:
        first = engine.submit(make_request(prompt_of(8), ENDLESS))
        assert model.entered.wait(120)
        long = engine.submit(make_request(prompt_of(8, seed=1)))
        short = engine.submit(make_request(prompt_of(8, seed=2), replace(GREEDY, max_tokens=5)))
        model.gate.set()
        assert len(list(short)) == 5 and len(list(long)) == 20
        first.close()
    assert counts[short] == [1, 4] and counts[long] == [1, 19]


def test_what_has_come_is_taken_at_once() -> None:
    request = make_request(prompt_of(8))

    async def main() -> list[list[TokenEvent]]:
        with running() as engine:
            stream = engine.submit(request)
            while engine.stats().num_steps < 20:
                await asyncio.sleep(0)
            settle(engine)
            return [await stream.take(), await stream.take()]

    events, end = asyncio.run(main())
    assert tokens_of(events) == alone(request) and end == []


def test_tokens_do_not_wait_for_a_prompt_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cierzo.engine.engine.FRAME_S", 1000)
    model = GatedModel()
    with running(model) as engine:
        stream = engine.submit(make_request(prompt_of(8), ENDLESS))
        next(stream)
        while engine.stats().num_steps < 5:
            pass
        engine.submit(make_request(prompt_of(60, seed=1)))
        settle(engine)
        model.gate.clear()
        assert all(next(stream).token_id is not None for _ in range(3))
        model.gate.set()
        stream.close()


def test_closing_a_stream_frees_its_blocks_within_a_step() -> None:
    model = GatedModel()
    with running(model) as engine:
        stream = engine.submit(make_request(prompt_of(30), ENDLESS))
        next(stream)
        model.gate.clear()
        stream.close()
        stream.close()
        assert list(stream) == []
        model.gate.set()
        settle(engine)
        assert engine.stats().num_free_blocks == 64


def test_closing_ends_another_threads_reading() -> None:
    model = GatedModel()
    model.gate.clear()
    with running(model) as engine:
        stream = engine.submit(make_request(prompt_of(30), ENDLESS))
        read: list[TokenEvent] = []
        reader = Thread(target=lambda: read.extend(stream))
        reader.start()
        assert model.entered.wait(120)
        stream.close()
        reader.join(120)
        assert not reader.is_alive() and read == []
        model.gate.set()


def test_closing_one_of_several_sequences_leaves_the_others() -> None:
    params = SamplingParams(temperature=1.0, seed=3, n=3, max_tokens=60)
    request = make_request(prompt_of(30), params)
    with running(num_blocks=128) as engine:
        whole: dict[int, list[int]] = {0: [], 1: [], 2: []}
        for event in engine.submit(request):
            whole[event.index] += tokens_of([event])
        partial: dict[int, list[int]] = {0: [], 1: [], 2: []}
        stream = engine.submit(request)
        for event in stream:
            partial[event.index] += tokens_of([event])
            if event.index == 1 and len(partial[1]) == 5:
                stream.close(index=1)
        assert partial == whole | {1: whole[1][:5]}
        settle(engine)
        assert engine.stats().num_free_blocks == 128


def test_requests_on_their_way_into_the_queue_count(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GatedModel()
    model.gate.clear()
    with running(model, max_waiting=2, max_running=1) as engine:
        streams = [engine.submit(make_request(prompt_of(5)))]
        assert model.entered.wait(120)
        streams += [engine.submit(make_request(prompt_of(5))) for _ in range(2)]
        add, errors = engine._core.add, Queue[QueueFullError]()

        def submit() -> None:
            try:
                engine.submit(make_request(prompt_of(5)))
            except QueueFullError as error:
                errors.put(error)

        def add_beside_a_third(arrival: int, request: GenerationRequest) -> Events:
            monkeypatch.undo()
            model.gate.clear()
            third.start()
            third.join(0.05)  # with the queue locked it waits, without it gets in
            return add(arrival, request)

        third = Thread(target=submit)
        monkeypatch.setattr(engine._core, "add", add_beside_a_third)
        model.gate.set()
        assert "2 requests are waiting" in str(errors.get(timeout=120))
        model.gate.set()
        for stream in streams:
            assert len(list(stream)) == 20


def test_a_full_queue_says_when_to_come_back() -> None:
    model = GatedModel()
    model.gate.clear()
    with running(model, max_waiting=2, max_running=1) as engine:
        streams = [engine.submit(make_request(prompt_of(5), ENDLESS))]
        assert model.entered.wait(120)
        streams += [engine.submit(make_request(prompt_of(5))) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 requests are waiting.*holds 2") as caught:
            engine.submit(make_request(prompt_of(5)))
        assert 1 <= caught.value.retry_after_s <= 60
        streams[0].close()
        model.gate.set()
        assert [len(list(stream)) for stream in streams] == [0, 20, 20]


def test_logits_of_a_whole_sequence_beside_running_requests() -> None:
    tokens = np.array(prompt_of(600), np.int32)
    request = make_request(prompt_of(30))
    with running() as engine:
        stream = engine.submit(request)
        logits = engine.logits(tokens)
        assert tokens_of(list(stream)) == alone(request)
    for length in (1, 255, 256, 257, 600):
        assert (logits[length - 1] == hash_logits(tokens[:length] + PROMPT_TOKEN)).all()


@pytest.mark.parametrize(
    ("prompt", "fields", "error", "message"),
    [
        ((), {}, RequestError, "at least one token"),
        ((5, 97), {}, RequestError, "in 0 … 96; got 97"),
        ((5, -1), {}, RequestError, "in 0 … 96; got -1"),
        ((5, 1.5), {}, RequestError, "prompt: token ids must be integers; got 1.5"),
        ((5, True), {}, RequestError, "prompt: token ids must be integers; got True"),
        ((5,), {"stop_token_ids": {"x"}}, RequestError, "stop: token ids must be integers"),
        ((5,), {"stop_token_ids": frozenset({97})}, RequestError, "stop token ids.*got 97"),
        ((5,) * 256, {}, ContextOverflowError, "prompt has 256 tokens.*have 256"),
        ((5,) * 240, {}, ContextOverflowError, r"240 tokens \+ max_tokens 20 = 260.*to 16"),
    ],
)
def test_requests_that_can_never_run_are_refused(
    prompt: tuple[int, ...], fields: dict[str, Any], error: type[RequestError], message: str
) -> None:
    with running() as engine, pytest.raises(error, match=message):
        engine.submit(make_request(prompt, **fields))


def test_the_end_of_the_context_is_named() -> None:
    with running() as engine:
        events = list(engine.submit(make_request(prompt_of(250), ENDLESS)))
        assert (len(events), events[-1].finish_reason) == (6, "model_length")
        events = list(engine.submit(make_request(prompt_of(250), replace(GREEDY, max_tokens=6))))
        assert (len(events), events[-1].finish_reason) == (6, "length")


def test_max_tokens_0_computes_the_prompt_only() -> None:
    params = replace(GREEDY, max_tokens=0, prompt_logprobs=0)
    with running() as engine:
        (event,) = engine.submit(make_request(prompt_of(20), params))
    assert (event.token_id, event.finish_reason) == (None, "length")
    assert event.prompt_logprobs is not None and len(event.prompt_logprobs) == 20


class CountedModel(FakeModel):
    """`is_ready` is set when the last block of 64 was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_ready = Event()

    def copy_blocks(self, kv_cache: Any, copies: list[tuple[int, int]]) -> None:
        super().copy_blocks(kv_cache, copies)
        if (0, 63) in copies:
            self.is_ready.set()


def test_an_idle_engine_makes_memory_ready_and_then_answers_as_ever() -> None:
    model = CountedModel()
    with running(model) as engine:
        assert model.is_ready.wait(60)
        request = make_request(prompt_of(30))
        assert tokens_of(list(engine.submit(request))) == alone(request)
