"""Reading a prompt instead of continuing it: beside other requests, over cached prefixes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cierzo.engine.core import EngineCore
from cierzo.engine.readout import MeanHidden, Reading, Readout, unit_length
from cierzo.engine.request import GenerationRequest, SamplingParams
from cierzo.errors import RequestError
from tests.engine.fake_model import PROMPT_TOKEN, VOCAB_SIZE, FakeModel, hash_logits
from tests.engine.helpers import (
    GREEDY,
    Oracle,
    Result,
    alone,
    finish_all,
    make_core,
    make_request,
    prompt_of,
    run_all,
    run_one,
)

NOTHING_MORE = SamplingParams(max_tokens=0)
WANTED = (3, 96, 0)


def reader(prompt: tuple[int, ...], readout: Readout | None = None) -> GenerationRequest:
    readout = readout or Readout("last", WANTED)
    return make_request(prompt, NOTHING_MORE, readout=readout)


def reading_of(result: Result) -> Reading:
    (event,) = result.events
    assert event.token_id is None and event.finish_reason == "length"
    assert event.reading is not None
    return event.reading


def expected(prompt: tuple[int, ...]) -> NDArray[np.float32]:
    return hash_logits(np.array(prompt, np.int32) + PROMPT_TOKEN)


@pytest.mark.parametrize("token_budget", [16, 17, 512])
def test_last_token_and_chosen_logits(token_budget: int) -> None:
    prompts = [prompt_of(5 + 23 * i, seed=i) for i in range(8)]
    requests = [reader(prompt) for prompt in prompts]
    core = make_core(token_budget=token_budget, num_blocks=256)
    for prompt, result in zip(prompts, run_all(core, requests), strict=True):
        reading, row = reading_of(result), expected(prompt)
        assert reading.hidden is not None
        assert (reading.hidden == row).all()
        assert (reading.logits == row[list(WANTED)]).all()


@pytest.mark.parametrize("token_budget", [16, 33, 512])
def test_mean_over_all_tokens_whatever_the_chunks(token_budget: int) -> None:
    prompts = [prompt_of(length, seed=length) for length in (1, 40, 100)]
    core = make_core(token_budget=token_budget)
    results = run_all(core, [reader(prompt, Readout("mean")) for prompt in prompts])
    for prompt, result in zip(prompts, results, strict=True):
        rows = [expected(prompt[: i + 1]).astype(np.float64) for i in range(len(prompt))]
        hidden = reading_of(result).hidden
        assert hidden is not None
        np.testing.assert_allclose(hidden, np.mean(rows, axis=0), rtol=1e-6, atol=1e-6)
    whole = run_all(make_core(), [reader(prompts[2], Readout("mean"))])[0]
    np.testing.assert_array_equal(reading_of(whole).hidden, reading_of(results[2]).hidden)


def test_beside_generation_neither_changes() -> None:
    generating = [make_request(prompt_of(20 + i, seed=i)) for i in range(3)]
    reading = [reader(prompt_of(30, seed=9)), reader(prompt_of(30, seed=8), Readout("mean"))]
    results = run_all(make_core(num_blocks=256), [*generating, *reading])
    for request, result in zip(generating, results[:3], strict=True):
        assert result.token_ids == alone(request)
    for request, result in zip(reading, results[3:], strict=True):
        there, here = reading_of(result), reading_of(run_one(make_core(), request))
        assert there.hidden is not None and here.hidden is not None
        assert (there.hidden == here.hidden).all() and (there.logits == here.logits).all()


def test_a_cached_prefix_is_reused_but_not_for_the_mean() -> None:
    core = make_core()
    cold, warm, mean = run_all(core, [reader(prompt_of(100)), reader(prompt_of(100))]) + run_all(
        core, [reader(prompt_of(100), Readout("mean"))]
    )
    assert cold.events[0].num_cached_tokens == 0
    assert warm.events[0].num_cached_tokens == 96
    assert (reading_of(cold).logits == reading_of(warm).logits).all()
    assert mean.events[0].num_cached_tokens == 0


def test_preempted_means_count_no_token_twice() -> None:
    requests = [reader(prompt_of(150, seed=i), Readout("mean")) for i in range(4)]
    calm = [reading_of(run_one(make_core(), request)).hidden for request in requests]
    core = make_core(num_blocks=40, token_budget=32, max_running=4)
    for arrival, request in enumerate(requests):
        core.add(arrival, request)
    results: dict[int, NDArray[np.float32] | None] = {}
    for step in range(200):
        for arrival, event in core.step():
            assert event.reading is not None
            results[arrival] = event.reading.hidden
        if step == 3 and core.scheduler.running:
            core.scheduler.preempt(core.scheduler.running[-1])
    assert len(results) == 4
    for arrival, hidden in enumerate(calm):
        there = results[arrival]
        assert hidden is not None and there is not None
        assert (hidden == there).all()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(RequestError, match="max_tokens 0"):
        make_request((1, 2), GREEDY, readout=Readout("last"))
    with pytest.raises(RequestError, match="n 1"):
        make_request((1, 2), replace(NOTHING_MORE, n=2), readout=Readout("last"))
    with pytest.raises(RequestError, match=f"0 … {VOCAB_SIZE - 1}; got {VOCAB_SIZE}"):
        make_core().check(reader((1, 2), Readout(None, (VOCAB_SIZE,))))


def test_unit_length() -> None:
    assert unit_length(np.array([3, 4], np.float32)).tolist() == pytest.approx([0.6, 0.8])
    assert unit_length(np.zeros(2, np.float32)).tolist() == [0, 0]
    mean = MeanHidden()
    mean.add(np.array([[1, 2], [3, 6]], np.float32))
    assert mean.value().tolist() == [2, 4]


def test_prompts_that_begin_alike_compute_their_beginning_once() -> None:
    """All are new: one goes first, and the others find its blocks."""
    model = FakeModel()
    core = make_core(model, num_blocks=256, token_budget=256)
    prefix = prompt_of(80)
    prompts = [prefix + prompt_of(10 + i, seed=i) for i in range(8)]
    results = run_all(core, [reader(prompt) for prompt in prompts])
    for prompt, result in zip(prompts, results, strict=True):
        assert (reading_of(result).logits == expected(prompt)[list(WANTED)]).all()
    cached = [result.events[0].num_cached_tokens for result in results]
    assert cached == [0] + [80] * 7
    assert model.num_computed_tokens == sum(map(len, prompts)) - 7 * 80


def test_a_long_beginning_is_waited_for_to_its_end() -> None:
    model = FakeModel()
    core = make_core(model, num_blocks=256, token_budget=32, max_model_len=512)
    prefix = prompt_of(200)
    results = run_all(core, [reader((*prefix, i)) for i in range(5)])
    assert [result.events[0].num_cached_tokens for result in results] == [0] + [192] * 4
    assert model.num_computed_tokens == 201 + 4 * 9


def test_nobody_waits_for_another_workspace_or_without_a_cache() -> None:
    for workspace, prefix_caching in (("b", True), ("default", False)):
        core = make_core(num_blocks=256, token_budget=256, prefix_caching=prefix_caching)
        core.add(0, reader(prompt_of(64)))
        core.add(1, replace(reader(prompt_of(64)), workspace=workspace))
        core.step()
        assert not core.has_work
    assert finish_all(make_core()) == {}


def test_who_waits_for_a_prefix_does_not_hold_up_others() -> None:
    core = make_core(num_blocks=256, token_budget=256)
    for arrival, prompt in enumerate((prompt_of(64), prompt_of(65), prompt_of(40, seed=5))):
        core.add(arrival, reader(prompt))
    assert [arrival for arrival, _ in core.step()] == [0, 2]
    assert [arrival for arrival, _ in core.step()] == [1]


def test_beside_guesses_its_own_row_is_read() -> None:
    # Where all tokens are computed alike, who guesses ahead may stand before who reads.
    def core_of(oracle: Oracle | None = None) -> EngineCore:
        return make_core(FakeModel(tells_prompt_apart=False), oracle)

    oracle = Oracle()
    generating = make_request(prompt_of(20))
    oracle.texts[0, 0] = run_one(core_of(), generating).token_ids
    for readout in (Readout("last", WANTED), Readout("mean")):
        core = core_of(oracle)
        core.add(0, generating)
        for _ in range(3):
            core.step()
        core.add(1, reader(prompt_of(30, seed=9), readout))
        there = reading_of(finish_all(core)[1, 0])
        assert core.stats().num_accepted_tokens > 0
        here = reading_of(run_one(core_of(), reader(prompt_of(30, seed=9), readout)))
        np.testing.assert_array_equal(there.hidden, here.hidden)
        np.testing.assert_array_equal(there.logits, here.logits)
