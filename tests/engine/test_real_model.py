"""The engine's promises with the real forward pass, on a tiny model of each kind that matters.

The numeric contract makes these equalities exact: same token ids, and same logprobs to the bit.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from cierzo import kernels
from cierzo.config import EngineConfig
from cierzo.engine.core import EngineCore
from cierzo.engine.request import GenerationRequest, SamplingParams
from cierzo.models.loading import ensure_packed
from cierzo.models.packed_folder import open_packed
from cierzo.models.transformer import Transformer
from tests.engine.helpers import Eager, Oracle, Result, finish_all, run_all
from tests.tiny_checkpoints import BlockType, tiny_model, write_gguf

KINDS = ["mistral", "mistral-window", "mistral-window-list", "mixtral", "ministral3"]
KINDS += ["mistral/int8", "mistral-window/int8"]  # of the KV cache
SAMPLED = SamplingParams(temperature=0.9, max_tokens=24, seed=11, logprobs=2)


@cache
def model_of(kind: str) -> Transformer:
    name, _, of_kv_cache = kind.partition("/")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        write_gguf(path, tiny_model(name), block_type=BlockType.Q4_1)
        packed = open_packed(ensure_packed(path))
        return Transformer(packed, kv_cache_dtype="int8" if of_kv_cache == "int8" else "bf16")


def core_of(kind: str, **config: Any) -> EngineCore:
    fields: dict[str, Any] = {
        "max_model_len": 160,
        "token_budget": 64,
        "max_running": 8,
        "num_blocks": 128,
        "speculation": False,
    }
    return EngineCore(model_of(kind), EngineConfig(**(fields | config)))


def request_of(length: int, seed: int = 0, params: SamplingParams = SAMPLED) -> GenerationRequest:
    prompt = np.random.default_rng(seed).integers(0, 320, length)
    return GenerationRequest("r", tuple(prompt.tolist()), params)


def said(result: Result) -> list[object]:
    """Token ids with their logprobs, exactly."""
    return [(event.token_id, event.logprob) for event in result.events]


def alone(kind: str, request: GenerationRequest) -> list[object]:
    return said(run_all(core_of(kind, token_budget=256), [request])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_chunked_batched_cached_and_preempted_are_the_same_to_the_bit(kind: str) -> None:
    requests = [request_of(length, seed=length) for length in (6, 30, 47, 64, 98)]
    expected = [alone(kind, request) for request in requests]
    assert len({str(text) for text in expected}) == 5

    core = core_of(kind, token_budget=24)  # chunked, in company
    assert [said(result) for result in run_all(core, requests)] == expected

    again = core_of(kind)
    run_all(again, requests)
    for arrival, request in enumerate(requests, start=10):  # from the prefix cache
        again.add(arrival, request)
    warm = finish_all(again)
    assert [said(warm[arrival, 0]) for arrival in range(10, 15)] == expected
    if kind not in ("mistral-window", "mistral-window/int8"):  # whose early blocks are gone
        assert all(warm[arrival, 0].events[0].num_cached_tokens > 0 for arrival in range(10, 15))


@pytest.mark.parametrize("kind", ["mistral", "mixtral", "mistral/int8"])
def test_preempted_is_the_same_to_the_bit(kind: str) -> None:
    requests = [
        request_of(40 + i, seed=i, params=replace(SAMPLED, max_tokens=60)) for i in range(4)
    ]
    core = core_of(kind, num_blocks=14)
    results = run_all(core, requests)
    assert core.stats().num_preempted > 0
    assert [said(result) for result in results] == [alone(kind, request) for request in requests]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_guessed_ahead_is_the_same_to_the_bit(kind: str, wrong: float) -> None:
    requests = [request_of(30 + 17 * i, seed=i) for i in range(5)]
    expected = [run_all(core_of(kind), [request])[0] for request in requests]
    oracle = Oracle(wrong)
    oracle.texts = {(arrival, 0): result.token_ids for arrival, result in enumerate(expected)}
    core = EngineCore(
        model_of(kind), core_of(kind, token_budget=24, speculation=True).config, Eager(oracle)
    )
    assert [said(result) for result in run_all(core, requests)] == list(map(said, expected))
    assert core.stats().num_accepted_tokens > 20


@pytest.mark.parametrize("num_threads", [2, 3])
def test_any_number_of_threads_is_the_same_to_the_bit(num_threads: int) -> None:
    requests = [request_of(50, seed=i) for i in range(3)]
    expected = [alone("mistral", request) for request in requests]
    kernels.set_num_threads(num_threads)
    assert [said(result) for result in run_all(core_of("mistral"), requests)] == expected


def test_a_sliding_window_holds_few_blocks() -> None:
    core = core_of("mistral-window", num_blocks=8, token_budget=16, max_running=2)
    core.add(0, request_of(100, params=replace(SAMPLED, max_tokens=50)))
    most_used = 0
    while core.has_work:
        core.step()
        most_used = max(most_used, 8 - core.stats().num_free_blocks)
    assert most_used <= 4


def test_every_token_is_counted_with_its_experts() -> None:
    model, core = model_of("mixtral"), core_of("mixtral")
    assert model.config.moe is not None
    before = model.expert_tokens.copy()
    run_all(core, [request_of(30 + 17 * i, seed=i) for i in range(3)])
    loads = model.expert_tokens - before
    assert loads.shape == (model.config.n_layers, model.config.moe.num_experts)
    num_tokens = core.stats().num_computed_tokens
    assert (loads.sum(axis=1) == num_tokens * model.config.moe.num_experts_per_tok).all()
    assert len(set(loads.ravel().tolist())) > 2, "each expert has a count of its own"
    assert core.stats().expert_tokens == model.expert_tokens.tolist()
    assert core_of("mistral").stats().expert_tokens == []
