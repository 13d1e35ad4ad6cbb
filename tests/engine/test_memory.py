from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cierzo.engine.memory import (
    GIB,
    PROCESS_NBYTES,
    KvPlan,
    buffers_nbytes,
    plan_kv_cache,
    split_memory,
)
from cierzo.errors import ModelTooLargeError, SettingError
from tests.engine.fake_model import fake_config

# 32 KiB of KV per token, as in a model of 32 layers with 2 KV heads of 128.
CONFIG = replace(fake_config(), n_layers=32, n_kv_heads=2, head_dim=128, max_seq_len=32768)


def plan(kv_gib: float, **changes: Any) -> KvPlan:
    """Under a ceiling that leaves so much for KV, beside weights of 1 GiB."""
    arguments: dict[str, Any] = {"config": CONFIG, "weights_nbytes": GIB, "max_model_len": None}
    arguments |= {"max_running": 20, "token_budget": 512} | changes
    others = GIB + PROCESS_NBYTES
    others += buffers_nbytes(arguments["config"], arguments["token_budget"])
    return plan_kv_cache(ceiling_nbytes=others + int(kv_gib * GIB), **arguments)


def test_room_for_eight_full_sequences_and_no_more() -> None:
    assert plan(100) == KvPlan(32768, 8 * 2048)


def test_room_for_all_that_may_run_at_a_length_asked_for() -> None:
    assert plan(100, max_model_len=1000) == KvPlan(1000, 20 * 63)


def test_no_more_than_all_else_leaves_under_the_ceiling() -> None:
    assert plan(2) == KvPlan(32768, 2 * GIB // (512 * 1024))
    assert plan(0.5) == KvPlan(16384, GIB // 2 // (512 * 1024))  # the length gives way


def test_int8_keys_and_values_hold_more() -> None:
    assert CONFIG.kv_bytes_per_token("int8") == 32 * 1024 // 2 + 32 * 2 * 2 * 2  # and scales
    block_nbytes = 16 * CONFIG.kv_bytes_per_token("int8")
    assert plan(0.5, kv_cache_dtype="int8").num_blocks == GIB // 2 // block_nbytes
    assert plan(0.5, kv_cache_dtype="int8", max_model_len=20000).max_model_len == 20000
    with pytest.raises(ModelTooLargeError, match=r"or raise --memory$"):
        plan(0.25, kv_cache_dtype="int8", max_model_len=20000)
    with pytest.raises(ModelTooLargeError, match=r"or keep keys and values in int8 \(--kv-cache-"):
        plan(0.25, max_model_len=20000)


def test_a_window_in_every_layer_leaves_the_full_length() -> None:
    windowed = replace(CONFIG, sliding_window=(4096,) * 32)
    # Half a GiB would hold 16384 tokens if all of them stayed.
    assert plan(0.5, config=windowed) == KvPlan(32768, 1024)
    assert plan(100, config=windowed).num_blocks == 8 * (4096 // 16 + 512 // 16 + 1)
    assert windowed.kv_bytes(32768) == windowed.kv_bytes(30000) == 289 * 512 * 1024
    assert windowed.kv_bytes(1000) == CONFIG.kv_bytes(1000) == 63 * 512 * 1024
    mixed = replace(CONFIG, sliding_window=(4096, None) * 16)
    assert plan(0.5, config=mixed).max_model_len == 16384
    assert plan(0.5, config=windowed, max_model_len=32768, token_budget=8192).num_blocks == 1024


def test_longer_than_the_model_is_refused() -> None:
    with pytest.raises(SettingError, match="max_model_len 32769 is over the 32768"):
        plan(100, max_model_len=32769)


def test_an_explicit_length_that_does_not_fit_is_refused_with_the_sums() -> None:
    message = (
        r"20000 tokens takes 1250 blocks × 524288 bytes = 0.61 GiB, but \S+ GiB of --memory - "
        r"1.00 GiB weights .* = 0.50 GiB for the KV cache; lower max_model_len to 16384"
    )
    with pytest.raises(ModelTooLargeError, match=message):
        plan(0.5, max_model_len=20000)


def test_weights_that_do_not_fit_are_refused_with_the_sums() -> None:
    message = r"1.00 GiB weights - .* process = -0.50 GiB for the KV cache; raise --memory"
    with pytest.raises(ModelTooLargeError, match=message):
        plan(-0.5)


def test_too_little_for_anything_useful_is_refused() -> None:
    with pytest.raises(ModelTooLargeError, match="KV cache of one sequence"):
        plan(0.001)


def test_buffers_grow_with_the_step_and_the_model() -> None:
    assert buffers_nbytes(CONFIG, 1024) == 2 * buffers_nbytes(CONFIG, 512)
    assert buffers_nbytes(replace(CONFIG, vocab_size=10**6), 512) > 4 * 512 * 10**6


def test_models_side_by_side_share_what_their_weights_leave() -> None:
    assert split_memory([("a", 100), ("b", 20)], 200) == [140, 60]
    message = r"a 2.00 GiB \+ b 1.00 GiB = 3.00 GiB, over the 2.50 GiB of --memory"
    with pytest.raises(ModelTooLargeError, match=message):
        split_memory([("a", 2 * GIB), ("b", GIB)], 5 * GIB // 2)
