"""Who runs in a step, and in what order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cierzo.config import EngineConfig
from cierzo.engine.batch import Batch
from cierzo.engine.core import EngineCore
from cierzo.engine.scheduler import Scheduler
from cierzo.errors import SettingError
from tests.engine.fake_model import FakeModel, fake_config
from tests.engine.helpers import GREEDY, finish_all, make_core, make_request, prompt_of

ENDLESS = replace(GREEDY, max_tokens=None)


def step(core: EngineCore) -> dict[int, int]:
    """Run one step. Returns the tokens computed of each request, by arrival."""
    batches: list[Batch] = []
    update = core.scheduler.update

    def spy(batch: Batch, samples: list[object]) -> object:
        batches.append(batch)
        return update(batch, samples)  # type: ignore[arg-type]

    core.scheduler.update = spy  # type: ignore[assignment, method-assign]
    try:
        core.step()
    finally:
        core.scheduler.update = update  # type: ignore[method-assign]
    (batch,) = batches
    return {sequence.arrival: count for sequence, count in batch.scheduled}


def test_decode_goes_first_and_the_rest_of_the_budget_to_prompts() -> None:
    core = make_core(token_budget=32, max_running=8)
    core.add(0, make_request(prompt_of(20)))
    assert step(core) == {0: 20}
    core.add(1, make_request(prompt_of(50, seed=1)))
    assert step(core) == {0: 1, 1: 31}
    assert step(core) == {0: 1, 1: 19}
    assert step(core) == {0: 1, 1: 1}


@pytest.mark.parametrize(("num_streams", "num_prompt_tokens"), [(1, 256), (8, 256), (12, 384)])
def test_a_long_prompt_is_read_in_bounded_steps_beside_answers(
    num_streams: int, num_prompt_tokens: int
) -> None:
    core = make_core(token_budget=512, max_running=32, max_model_len=2048, num_blocks=512)
    for arrival in range(num_streams):
        core.add(arrival, make_request(prompt_of(10, seed=arrival), ENDLESS))
    assert sum(step(core).values()) == 10 * num_streams
    core.add(num_streams, make_request(prompt_of(1000, seed=99), ENDLESS))
    left = 1000
    while left > 0:
        counts = step(core)
        assert counts.pop(num_streams) == min(num_prompt_tokens, left)
        assert counts == dict.fromkeys(range(num_streams), 1)  # no answer misses a step
        left -= num_prompt_tokens


def test_a_prompt_alone_may_have_the_whole_budget() -> None:
    core = make_core(token_budget=512, max_model_len=2048, num_blocks=512)
    core.add(0, make_request(prompt_of(1000)))
    assert step(core) == {0: 512}


def test_waiting_requests_are_taken_in_order_of_arrival() -> None:
    core = make_core(token_budget=16, max_running=2)
    for arrival in range(3):
        core.add(arrival, make_request(prompt_of(16, seed=arrival)))
    assert step(core) == {0: 16}
    assert step(core) == {0: 1, 1: 15}
    assert step(core) == {0: 1, 1: 1}  # 2 waits for a place


def test_workspaces_take_turns() -> None:
    core = make_core(token_budget=16, max_running=16)
    for arrival in range(4):
        core.add(arrival, make_request(prompt_of(60, seed=arrival), workspace="busy"))
    core.add(4, make_request(prompt_of(60, seed=4), workspace="quiet"))
    order = [next(iter(step(core))) for _ in range(6)]
    assert order == [0, 4, 0, 4, 0, 4]


def test_a_request_that_does_not_fit_yet_is_not_overtaken() -> None:
    core = make_core(num_blocks=10, max_model_len=160, token_budget=64)
    core.add(0, make_request(prompt_of(100), replace(GREEDY, max_tokens=10)))
    core.add(1, make_request(prompt_of(120, seed=1), replace(GREEDY, max_tokens=2)))
    core.add(2, make_request(prompt_of(10, seed=2), replace(GREEDY, max_tokens=2)))
    seen: list[int] = []
    while core.has_work:
        seen += step(core)
    assert seen.index(2) > seen.index(1) > seen.index(0)


def test_the_youngest_is_preempted() -> None:
    core = make_core(num_blocks=6, max_model_len=96)
    core.add(0, make_request(prompt_of(40), replace(GREEDY, max_tokens=40)))
    core.add(1, make_request(prompt_of(40, seed=1), replace(GREEDY, max_tokens=40)))
    while core.stats().num_preempted == 0:
        step(core)
    assert [sequence.arrival for sequence in core.scheduler.running] == [0]
    assert [sequence.arrival for sequence in core.scheduler.waiting["default"]] == [1]


def test_a_preempted_decode_leaves_the_step_it_was_chosen_for() -> None:
    core = make_core(num_blocks=8, max_model_len=128, token_budget=16, max_running=4)
    core.add(0, make_request(prompt_of(110), replace(GREEDY, max_tokens=2)))
    core.add(1, make_request(prompt_of(15, seed=1), workspace="other"))
    chosen: dict[int, int] = {}
    while core.stats().num_preempted == 0:
        # 1 decodes into a block that 0's prompt will want.
        chosen = step(core)
    assert chosen == {0: 15}
    results = finish_all(core)
    assert len(results[0, 0].token_ids) == 2


def test_the_others_start_when_the_leader_is_closed_before_its_prompt_is_done() -> None:
    core = make_core(token_budget=16)
    core.add(0, make_request(prompt_of(40), replace(GREEDY, n=3)))
    step(core)
    core.abort(0, index=0)
    results = finish_all(core)
    assert {key: len(result.token_ids) for key, result in results.items()} == {
        (0, 1): 20,
        (0, 2): 20,
    }


def test_every_decode_fits_in_the_token_budget_by_construction() -> None:
    with pytest.raises(SettingError, match=r"token_budget \(8\).*max_running \(16\)"):
        Scheduler(EngineConfig(max_model_len=64, token_budget=8, max_running=16), fake_config())


def test_a_pool_too_small_for_one_sequence_is_refused() -> None:
    with pytest.raises(SettingError, match="160 tokens needs 10 blocks"):
        make_core(num_blocks=9, max_model_len=160)
    windowed = make_core(
        FakeModel(sliding_window=16), num_blocks=4, token_budget=16, max_model_len=160
    )
    assert windowed.scheduler.blocks_to_hold(160) == 3


def test_a_stopped_workspace_is_forgotten() -> None:
    core = make_core()
    core.add(0, make_request(prompt_of(10), workspace="a"))
    step(core)
    core.abort(0)
    assert core.scheduler.waiting == {}
