"""What must not change a text: chunking, company, the prefix cache, preemption."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cierzo.config import BLOCK_SIZE
from cierzo.engine.request import SamplingParams
from tests.engine.fake_model import PROMPT_TOKEN, FakeModel, fake_config, hash_logits
from tests.engine.helpers import (
    GREEDY,
    alone,
    finish_all,
    make_core,
    make_request,
    prompt_of,
    run_all,
    run_one,
)

SAMPLED = SamplingParams(temperature=0.8, top_p=0.9, max_tokens=40, seed=7)


def test_chunked_prefill_equals_whole() -> None:
    request = make_request(prompt_of(150))
    whole = alone(request, token_budget=256)
    assert len(whole) == 20
    for token_budget in (16, 17, 33):
        assert alone(request, token_budget=token_budget) == whole


@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
def test_batched_equals_alone(params: SamplingParams) -> None:
    requests = [make_request(prompt_of(5 + 9 * i, seed=i), params) for i in range(12)]
    model = FakeModel()
    together = run_all(make_core(model, num_blocks=256), requests)
    assert max(model.batch_sizes) == 12
    assert [result.token_ids for result in together] == [alone(request) for request in requests]


def test_cached_prefix_equals_cold() -> None:
    core, request = make_core(), make_request(prompt_of(100))
    cold, warm = run_one(core, request), run_one(core, request)
    assert (cold.events[0].num_cached_tokens, warm.events[0].num_cached_tokens) == (0, 99)
    assert warm.token_ids == cold.token_ids
    branch = make_request(prompt_of(100)[:50] + prompt_of(50, seed=1))
    result = run_one(core, branch)
    assert result.events[-1].num_cached_tokens == 50  # two of them in a block begun alike
    assert result.token_ids == alone(branch)


def test_a_whole_prompt_of_full_blocks_still_computes_its_last_token() -> None:
    core, request = make_core(), make_request(prompt_of(64))
    cold, warm = run_one(core, request), run_one(core, request)
    assert warm.events[0].num_cached_tokens == 63
    assert warm.token_ids == cold.token_ids


@pytest.mark.parametrize(("tells_prompt_apart", "num_cached"), [(False, 48), (True, 30)])
def test_a_completion_is_the_next_turns_prompt_where_all_tokens_are_computed_alike(
    tells_prompt_apart: bool, num_cached: int
) -> None:
    model = FakeModel(tells_prompt_apart=tells_prompt_apart)
    core, request = make_core(model), make_request(prompt_of(30))
    completion = run_one(core, request).token_ids
    turn = make_request((*prompt_of(30), *completion, 5))
    again = run_one(core, turn)
    # 30 + 19 computed tokens are three full blocks, one of them of prompt tokens only; half of the
    # next one is, too.
    assert again.events[0].num_cached_tokens == num_cached
    cold = run_one(make_core(FakeModel(tells_prompt_apart=tells_prompt_apart)), turn)
    assert again.token_ids == cold.token_ids


@pytest.mark.parametrize(("length", "kept_apart"), [(1, 0), (8, 0), (9, PROMPT_TOKEN)])
def test_a_short_prompt_is_computed_as_completion_tokens(length: int, kept_apart: int) -> None:
    core, request = make_core(), make_request(prompt_of(length), SAMPLED)
    seen = np.array(request.prompt_token_ids, np.int32) + kept_apart
    first = run_one(make_core(), make_request(prompt_of(length))).token_ids[0]
    assert first == int(hash_logits(seen).argmax())
    cold, warm = run_one(core, request), run_one(core, request)
    assert warm.token_ids == cold.token_ids
    assert warm.events[0].num_cached_tokens == length - 1


def test_preempted_equals_undisturbed() -> None:
    requests = [
        make_request(prompt_of(40, seed=i), replace(SAMPLED, max_tokens=60)) for i in range(6)
    ]
    core = make_core(num_blocks=18, max_model_len=128)
    results = run_all(core, requests)
    assert core.stats().num_preempted > 0
    assert [result.token_ids for result in results] == [alone(request) for request in requests]
    assert core.stats().num_free_blocks == 18


def test_workspaces_never_share_blocks() -> None:
    core = make_core()
    prompt = prompt_of(100)
    results = [
        run_one(core, make_request(prompt, workspace=workspace)).events[0].num_cached_tokens
        for workspace in ("a", "b", "a", "b")
    ]
    assert results == [0, 0, 99, 99]


def test_no_prefix_caching_reuses_nothing() -> None:
    core = make_core(prefix_caching=False)
    for _ in range(2):
        assert run_one(core, make_request(prompt_of(100))).events[0].num_cached_tokens == 0


def test_n_computes_the_prompt_once_and_samples_apart() -> None:
    model = FakeModel()
    core = make_core(model, num_blocks=128)
    core.add(0, make_request(prompt_of(96), replace(SAMPLED, n=4)))
    results = finish_all(core)
    texts = [tuple(results[0, index].token_ids) for index in range(4)]
    assert len(set(texts)) == 4
    # The prompt once, its last token again for each other sequence, 39 fed-back tokens each.
    assert model.num_computed_tokens == 96 + 3 + 4 * 39
    assert {event.num_cached_tokens for r in results.values() for event in r.events} == {0}
    assert list(texts[0]) == alone(make_request(prompt_of(96), SAMPLED))


def test_sliding_window_frees_what_falls_out_and_changes_nothing() -> None:
    request = make_request(prompt_of(100), replace(GREEDY, max_tokens=100))
    core = make_core(FakeModel(sliding_window=40), num_blocks=9, token_budget=64)
    core.add(0, request)
    most_used, tokens = 0, []
    while core.has_work:
        tokens += [event.token_id for _, event in core.step()]
        most_used = max(most_used, 9 - core.stats().num_free_blocks)
    assert most_used <= 7
    roomy = make_core(FakeModel(sliding_window=40), token_budget=256)
    assert tokens == run_one(roomy, request).token_ids
    assert core.stats().num_free_blocks == 9


def test_a_window_in_some_layers_only_frees_nothing() -> None:
    config = fake_config(sliding_window=8, n_layers=2)
    assert config.widest_window == 8
    assert replace(config, sliding_window=(8, None)).widest_window is None
    assert replace(config, sliding_window=(8, 32)).widest_window == 32


class CopyingModel(FakeModel):
    """Notes the blocks that were copied."""

    def __init__(self) -> None:
        super().__init__()
        self.copied: list[tuple[int, int]] = []

    def copy_blocks(self, kv_cache: Any, copies: list[tuple[int, int]]) -> None:
        self.copied += copies
        super().copy_blocks(kv_cache, copies)


def test_blocks_are_made_ready_once_and_only_while_nobody_had_them() -> None:
    model = CopyingModel()
    core, request = make_core(model, num_blocks=16), make_request(prompt_of(40))
    assert core.make_ready()
    text = run_one(core, request).token_ids  # 60 tokens: blocks 0 to 3
    while core.make_ready():
        pass
    assert [target for _, target in model.copied] == [0, *range(4, 16)]
    assert not core.make_ready()
    assert run_one(core, request).token_ids == text


def test_no_more_is_made_ready_than_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CopyingModel()
    block_nbytes = model.config.kv_bytes_per_token() * BLOCK_SIZE
    monkeypatch.setattr("cierzo.engine.core.READY_NBYTES", 3 * block_nbytes)
    core = make_core(model, num_blocks=16)
    while core.make_ready():
        pass
    assert [target for _, target in model.copied] == [0, 1, 2]
