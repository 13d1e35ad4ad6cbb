"""What the benchmark counts: arrivals in, rates out, and prompts that no cache has seen."""

from __future__ import annotations

import pytest

from cierzo.cli.speed import Load, decode_rate, last_first, measure
from cierzo.config import EngineConfig
from cierzo.engine import Engine
from cierzo.errors import EngineError
from tests.engine.fake_model import VOCAB_SIZE, FakeModel


def test_prefill_ends_with_the_last_sequence() -> None:
    assert last_first([[1.0, 2.0], [1.5, 2.5]]) == 1.5


def test_decode_counts_only_while_all_are_decoding() -> None:
    late = [4.0, 5.0, 6.0, 7.0]
    early = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert decode_rate([early, late]) == (2 + 2) / (6.0 - 4.0)


def test_without_a_common_time_the_whole_span_counts() -> None:
    assert decode_rate([[1.0, 2.0], [3.0, 4.0, 5.0]]) == 3 / 4.0
    assert decode_rate([[1.0]]) == 0.0


def test_every_prompt_is_computed() -> None:
    model = FakeModel()
    engine = Engine(model, EngineConfig(max_model_len=64, num_blocks=64))
    try:
        speed = measure(engine, VOCAB_SIZE, Load(batch=3, prompt=20, generate=8), repeat=2)
    finally:
        engine.close()
    assert speed.batch == 3
    assert speed.prefill_range[0] <= speed.prefill_tok_s <= speed.prefill_range[1]
    assert speed.decode_tok_s > 0
    assert 0 < speed.outside_model < 1
    prefill, both = 3 * 20, 3 * (20 + 7)
    rounds = both + 2 * (prefill + both) + both  # one before, one after for the model's share
    assert model.num_computed_tokens == rounds


def test_a_failing_engine_is_no_measurement() -> None:
    engine = Engine(FakeModel(fail_on=0), EngineConfig(max_model_len=512, num_blocks=256))
    try:
        with pytest.raises(EngineError, match="during the measurement"):
            measure(engine, VOCAB_SIZE, Load(batch=2, prompt=400, generate=4), repeat=1)
    finally:
        engine.close()


def test_a_cached_prefix_is_computed_once() -> None:
    model = FakeModel()
    engine = Engine(model, EngineConfig(max_model_len=128, num_blocks=64))
    try:
        measure(engine, VOCAB_SIZE, Load(batch=2, prompt=5, generate=4, cached=32), repeat=1)
    finally:
        engine.close()
    prefill, both = 2 * 5, 2 * (5 + 3)
    assert model.num_computed_tokens == 32 + both + (prefill + both) + both


def test_a_prefix_that_was_not_cached_is_another_load() -> None:
    config = EngineConfig(max_model_len=128, num_blocks=64, prefix_caching=False)
    engine = Engine(FakeModel(), config)
    try:
        with pytest.raises(EngineError, match="0 of a prefix of 32 tokens"):
            measure(engine, VOCAB_SIZE, Load(batch=1, prompt=5, generate=4, cached=32), repeat=1)
    finally:
        engine.close()
