from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cierzo.engine.memory import GIB, KvPlan, plan_kv_cache
from cierzo.errors import ModelTooLargeError, SettingError
from tests.engine.fake_model import fake_config

# 32 KiB of KV per token, as in a model of 32 layers with 2 KV heads of 128.
CONFIG = replace(fake_config(), n_layers=32, n_kv_heads=2, head_dim=128, max_seq_len=32768)


def plan(free_gib: float, **changes: Any) -> KvPlan:
    arguments: dict[str, Any] = {"weights_nbytes": GIB, "memory_share": 0.5, "max_model_len": None}
    arguments |= {"config": CONFIG, "free_bytes": int(free_gib * GIB), "max_running": 20}
    return plan_kv_cache(**(arguments | changes))


def test_room_for_eight_full_sequences_and_no_more() -> None:
    assert plan(100) == KvPlan(32768, 8 * 2048)


def test_room_for_all_that_may_run_at_a_length_asked_for() -> None:
    assert plan(100, max_model_len=1000) == KvPlan(1000, 20 * 63)


def test_no_more_than_the_share_of_what_the_weights_leave() -> None:
    assert plan(5) == KvPlan(32768, 2 * GIB // (512 * 1024))
    assert plan(2) == KvPlan(16384, GIB // 2 // (512 * 1024))  # the length gives way


def test_a_window_in_every_layer_leaves_the_full_length() -> None:
    windowed = replace(CONFIG, sliding_window=(4096,) * 32)
    # Half a GiB would hold 16384 tokens if all of them stayed.
    assert plan(2, config=windowed) == KvPlan(32768, 1024)
    assert plan(100, config=windowed).num_blocks == 8 * (4096 // 16 + 512 // 16 + 1)
    assert windowed.kv_bytes(32768) == windowed.kv_bytes(30000) == 289 * 512 * 1024
    assert windowed.kv_bytes(1000) == CONFIG.kv_bytes(1000) == 63 * 512 * 1024
    mixed = replace(CONFIG, sliding_window=(4096, None) * 16)
    assert plan(2, config=mixed).max_model_len == 16384
    assert plan(2, config=windowed, max_model_len=32768, token_budget=8192).num_blocks == 1024


def test_longer_than_the_model_is_refused() -> None:
    with pytest.raises(SettingError, match="max_model_len 32769 is over the 32768"):
        plan(100, max_model_len=32769)


def test_an_explicit_length_that_does_not_fit_is_refused_with_the_sums() -> None:
    message = (
        r"20000 tokens takes 1250 blocks × 524288 bytes = 0.61 GiB, .* 50% of 1.00 GiB "
        r".* = 0.50 GiB; lower max_model_len to 16384"
    )
    with pytest.raises(ModelTooLargeError, match=message):
        plan(2, max_model_len=20000)


def test_weights_that_do_not_fit_are_refused_with_the_sums() -> None:
    with pytest.raises(ModelTooLargeError, match=r"take 1.00 GiB, but 0.50 GiB"):
        plan(0.5)


def test_too_little_for_anything_useful_is_refused() -> None:
    with pytest.raises(ModelTooLargeError, match="KV cache of one sequence"):
        plan(1.001)
