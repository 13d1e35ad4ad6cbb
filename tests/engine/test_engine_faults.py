"""The engine's thread where something goes wrong, and at its end: nobody hangs, nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from cierzo.engine import Engine
from cierzo.errors import EngineStoppedError
from tests.engine.fake_model import FakeModel
from tests.engine.helpers import (
    GREEDY,
    alone,
    finish_all,
    make_core,
    make_request,
    prompt_of,
    run_one,
)
from tests.engine.running import ENDLESS, running, settle, tokens_of
from tests.waiting import eventually


def test_a_step_that_raises_fails_its_requests_and_no_others() -> None:
    with running(FakeModel(fail_on=96)) as engine:
        good = engine.submit(make_request((1, 2, 3), replace(GREEDY, max_tokens=1)))
        assert next(good).finish_reason == "length"
        bad = list(engine.submit(make_request((96,), replace(GREEDY, n=2))))
        assert {event.index for event in bad} == {0, 1}
        assert all(event.finish_reason == "error" for event in bad)
        assert "the fake model fails on request" in (bad[0].error or "")
        again = engine.submit(make_request((1, 2, 3), replace(GREEDY, max_tokens=1)))
        assert len(list(again)) == 1
        assert engine.is_healthy()
        assert engine.stats().num_free_blocks == 64


class WithoutRoom(FakeModel):
    def copy_blocks(self, kv_cache: Any, copies: list[tuple[int, int]]) -> None:
        if copies:
            raise MemoryError


def test_memory_that_cannot_be_made_ready_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cierzo.engine.engine.IDLE_S", 0.0)
    with running(WithoutRoom()) as engine:
        assert eventually(lambda: "memory could not be made ready" in caplog.text)
        done = list(engine.submit(make_request((1, 2, 3), replace(GREEDY, max_tokens=4))))
        assert len(tokens_of(done)) == 4
        assert engine.is_healthy()


def test_a_thread_that_fails_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda failure: None)
    with running() as engine:
        monkeypatch.setattr("cierzo.engine.engine.FRAME_S", None)
        events = list(engine.submit(make_request((1, 2, 3), ENDLESS)))
        assert events[-1].finish_reason == "error"
        assert eventually(lambda: not engine.is_healthy())
        with pytest.raises(EngineStoppedError):
            engine.submit(make_request((1, 2, 3), GREEDY))


def test_an_engine_that_cannot_even_end_its_requests_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running() as engine:
        stream = engine.submit(make_request((1, 2, 3), replace(ENDLESS, n=2)))
        next(stream)
        monkeypatch.setattr(engine._core, "fail_all", lambda message: 1 // 0)
        monkeypatch.setattr(engine._core.scheduler, "schedule", lambda: 1 // 0)
        last = {event.index: event for event in stream}
        assert {event.finish_reason for event in last.values()} == {"error"} and len(last) == 2
        assert eventually(lambda: not engine.is_healthy())
        with pytest.raises(EngineStoppedError):
            engine.submit(make_request((1, 2, 3), GREEDY))


def test_who_shares_a_step_with_one_that_raises_never_notices() -> None:
    params = replace(GREEDY, max_tokens=30)
    core = make_core(FakeModel(fail_on=96))
    prompts = [[token_id % 96 for token_id in prompt_of(20 + i, seed=i)] for i in range(4)]
    requests = [make_request(prompt, params) for prompt in prompts]
    expected = [run_one(make_core(FakeModel(fail_on=96)), request) for request in requests]
    for arrival, request in enumerate(requests):
        core.add(arrival, request)
    for _ in range(3):
        core.step()
    core.add(9, make_request((96,), replace(GREEDY, n=2)))
    results = finish_all(core)
    assert [results[9, index].finish_reason for index in (0, 1)] == ["error", "error"]
    for arrival, result in enumerate(expected):
        assert result.token_ids[-25:] == results[arrival, 0].token_ids[-25:]
        assert results[arrival, 0].finish_reason == "length"
    assert core.stats().num_free_blocks == 64


def test_a_fault_of_the_engine_itself_hangs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as engine:
        schedule = engine._core.scheduler.schedule
        monkeypatch.setattr(engine._core.scheduler, "schedule", lambda: 1 // 0)
        (event,) = engine.submit(make_request(prompt_of(5)))
        assert event.finish_reason == "error" and "ZeroDivisionError" in (event.error or "")
        monkeypatch.setattr(engine._core.scheduler, "schedule", schedule)
        assert len(list(engine.submit(make_request(prompt_of(5))))) == 20


def test_close_ends_streams_with_an_error() -> None:
    with running() as engine:
        stream = engine.submit(make_request(prompt_of(5), ENDLESS))
        next(stream)
    *_, last = stream
    assert last.finish_reason == "error" and "stopped before" in (last.error or "")
    assert not engine.is_healthy()
    with pytest.raises(EngineStoppedError):
        engine.submit(make_request(prompt_of(5)))
    with pytest.raises(EngineStoppedError):
        engine.logits(np.array([1], np.int32))


def test_what_fails_beside_the_steps_fails_its_caller_only() -> None:
    with running(FakeModel(fail_on=96)) as engine:
        with pytest.raises(RuntimeError, match="fails on request"):
            engine.logits(np.array([96], np.int32))
        assert len(list(engine.submit(make_request((1, 2))))) == 20


def test_a_script_that_ends_in_mid_answer_ends_well() -> None:
    script = """
from cierzo.config import EngineConfig
from cierzo.engine import Engine, SamplingParams
from tests.engine.fake_model import FakeModel
from tests.engine.helpers import make_request
engine = Engine(FakeModel(), EngineConfig(max_model_len=10**6, num_blocks=70_000))
next(engine.submit(make_request((1, 2), SamplingParams())))
"""
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_many_threads_that_come_and_go_leave_nothing_behind() -> None:
    expected = {seed: alone(make_request(prompt_of(20, seed=seed))) for seed in range(8)}
    wrong: list[int] = []

    def client(seed: int, engine: Engine) -> None:
        for round_number in range(6):
            stream = engine.submit(make_request(prompt_of(20, seed=seed)))
            leave_after = (seed + 5 * round_number) % 25
            read = []
            for event in stream:
                read += tokens_of([event])
                if len(read) == leave_after:
                    stream.close()
            if read != expected[seed][: leave_after or None]:
                wrong.append(seed)

    with running(num_blocks=24, max_model_len=64, max_running=5) as engine:
        threads = [Thread(target=client, args=(seed, engine)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        settle(engine)
        assert wrong == []
        assert engine.stats().num_free_blocks == 24
        assert engine.stats().num_waiting == engine.stats().num_running == 0


def test_what_was_asked_right_before_the_end_is_answered() -> None:
    """While the engine's thread is busy with a call: nothing is left in its inbox for ever."""
    begun, may_end = Event(), Event()

    def hold() -> None:
        begun.set()
        assert may_end.wait(120)

    with running() as engine:
        threads = [Thread(target=engine._call, args=(hold,))]
        threads[0].start()
        assert begun.wait(120)
        stream = engine.submit(make_request(prompt_of(5)))
        threads += [Thread(target=settle, args=(engine,)), Thread(target=engine.close)]
        threads[1].start()
        while len(engine._inbox) < 2:
            time.sleep(0.001)
        threads[2].start()
        while engine.is_healthy():
            time.sleep(0.001)
        may_end.set()
        assert [event.finish_reason for event in stream] == ["error"]
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
