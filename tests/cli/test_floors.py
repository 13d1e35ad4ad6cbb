"""The arithmetic of the floors, on models whose work can be counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cierzo.cli.floors import (
    ModelBytes,
    Rates,
    Work,
    decode_reached,
    decode_work,
    expert_share,
    model_bytes,
    prefill_work,
    rates_for,
    reached,
)
from cierzo.cli.roofline import MultiplyRate, ReadRate, Roofline
from cierzo.cli.speed import Load
from cierzo.config import ModelConfig, MoeConfig
from cierzo.errors import SettingError
from cierzo.models.packed_folder import PackedEntry

DENSE = ModelConfig(
    architecture="mistral",
    dim=8,
    n_layers=2,
    n_heads=2,
    n_kv_heads=1,
    head_dim=4,
    hidden_dim=16,
    vocab_size=100,
    norm_eps=1e-5,
    rope_theta=1e4,
    max_seq_len=64,
    sliding_window=(None, None),
)
SPARSE = replace(DENSE, architecture="mixtral", moe=MoeConfig(8, 2))
WEIGHTS = ModelBytes(every_step=1000, experts=800, embedding=300, is_bf16=False)

LAYERS = 2 * 8 * (2 * 4 + 2 * 1 * 4 + 2 * 4)  # q and o, k and v
DENSE_FEED_FORWARD = 2 * 3 * 8 * 16
SPARSE_FEED_FORWARD = 2 * 8 * (2 * 3 * 16 + 8)  # two experts and the router
HEAD = 8 * 100


def test_prefill_counts_every_multiply_add() -> None:
    attention = 2 * (1 + 2 + 3) * 2 * 8  # two layers, causal pairs, q·k and p·v
    products = 3 * (LAYERS + DENSE_FEED_FORWARD) + HEAD
    assert prefill_work(DENSE, WEIGHTS, 1, 3).ops == 2 * (products + attention)
    behind = prefill_work(DENSE, WEIGHTS, 1, 2, cached=3)
    products = 2 * (LAYERS + DENSE_FEED_FORWARD) + HEAD
    assert behind.ops == 2 * (products + 2 * (4 + 5) * 2 * 8)


def test_a_window_bounds_what_is_attended() -> None:
    narrow = replace(DENSE, sliding_window=(2, None))
    pairs = (1 + 2 + 2 + 2) + (1 + 2 + 3 + 4)
    products = 4 * (LAYERS + DENSE_FEED_FORWARD) + HEAD
    assert prefill_work(narrow, WEIGHTS, 1, 4).ops == 2 * (products + pairs * 2 * 8)
    full, half = (decode_work(config, WEIGHTS, 1, 10).nbytes for config in (DENSE, narrow))
    assert full - half == 8 * DENSE.kv_bytes_per_token() / 2
    smaller = decode_work(DENSE, WEIGHTS, 1, 10, "int8").nbytes
    assert full - smaller == 10 * (DENSE.kv_bytes_per_token() - DENSE.kv_bytes_per_token("int8"))


def test_a_sparse_layer_costs_its_chosen_experts() -> None:
    work = decode_work(SPARSE, WEIGHTS, 1, 5)
    attention = 2 * 5 * 2 * 8
    assert work.ops == 2 * (LAYERS + SPARSE_FEED_FORWARD + HEAD + attention)
    assert work.nbytes == 1000 + 800 / 4 + 5 * SPARSE.kv_bytes_per_token()


def test_a_batch_reads_the_experts_that_somebody_chose() -> None:
    assert expert_share(DENSE, 7) == 1.0
    assert expert_share(SPARSE, 1) == 0.25
    assert expert_share(SPARSE, 2) == pytest.approx(3.5 / 8)
    assert decode_work(SPARSE, WEIGHTS, 64, 0).nbytes == pytest.approx(1800, rel=1e-4)


def test_the_slower_limit_is_the_floor() -> None:
    by_memory = reached(Work(ops=100, nbytes=50), 2, tok_s=3.0, read_bytes_s=25, ops_s=1000)
    assert (by_memory.floor_tok_s, by_memory.fraction, by_memory.limit) == (1.0, 3.0, "memory")
    by_products = reached(Work(ops=100, nbytes=50), 2, tok_s=0.5, read_bytes_s=1e9, ops_s=50)
    assert (by_products.floor_tok_s, by_products.fraction) == (1.0, 0.5)
    assert by_products.limit == "arithmetic"
    assert (by_products.ops_per_byte, by_products.ops_s) == (2.0, 25)


def test_decode_is_judged_in_the_middle_of_the_answer() -> None:
    load = Load(batch=1, prompt=4, generate=8, cached=2)
    rates = Rates(read_bytes_s=1e4, prompt_ops_s=1.0, completion_ops_s=1e12)
    nbytes = 1800 + (2 + 4 + 4) * DENSE.kv_bytes_per_token()
    floor = decode_reached(DENSE, WEIGHTS, rates, load, tok_s=1.0).floor_tok_s
    assert floor == pytest.approx(1e4 / nbytes, abs=0.05)


def test_an_embedding_is_read_whole_only_as_the_head() -> None:
    entries = [
        _entry("embedding", 300),
        _entry("output", 400),
        _entry("layers.0.qkv_proj", 600),
        _entry("layers.0.experts.down_proj", 800, n_experts=8),
    ]
    assert model_bytes(entries, SPARSE) == ModelBytes(1000, 800, 300, False)
    tied = model_bytes(entries, replace(SPARSE, tied_embeddings=True))
    assert tied == ModelBytes(1300, 800, 0, False)
    assert model_bytes([_entry("output", 5, dtype="bf16")], DENSE).is_bf16


def test_rates_follow_the_class_of_a_token() -> None:
    def machine(*units: str) -> Roofline:
        rates = {"f32": 1.0, "int8": 4.0, "amx_bf16_l1": 10.0, "amx_int8_l1": 20.0}
        multiplies = tuple(MultiplyRate("x", unit, 2, rates[unit]) for unit in units)
        return Roofline("", (ReadRate(2, 1000, 7.0),), multiplies)

    tiles = machine("f32", "int8", "amx_bf16_l1", "amx_int8_l1")
    assert rates_for(WEIGHTS, tiles, "x", 2) == Rates(7.0, 10.0, 20.0)
    assert rates_for(WEIGHTS, machine("f32", "int8"), "x", 2) == Rates(7.0, 4.0, 4.0)
    bf16 = replace(WEIGHTS, is_bf16=True)
    assert rates_for(bf16, tiles, "x", 2) == Rates(7.0, 10.0, 10.0)
    assert rates_for(bf16, machine("f32", "int8"), "x", 2) == Rates(7.0, 1.0, 1.0)
    with pytest.raises(SettingError, match="not measured for y"):
        rates_for(WEIGHTS, tiles, "y", 2)


def _entry(name: str, nbytes: int, n_experts: int = 1, dtype: str = "int4") -> PackedEntry:
    return PackedEntry(name, dtype, False, 1, 1, n_experts, 0, nbytes, 0.0, 0, 0)  # type: ignore[arg-type]
