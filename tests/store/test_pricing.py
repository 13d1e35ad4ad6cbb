"""Money is exact integers; a price holds from its date on."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cierzo.errors import StoreError, StoreNotFoundError
from cierzo.ids import now_ms
from cierzo.store.db import Database
from cierzo.store.price_presets import PRESETS, preset
from cierzo.store.pricing import FREE, Price, list_prices, price_at, set_price


def test_a_million_tokens_cost_what_the_table_says() -> None:
    price = Price(150_000, 600_000)  # $0.15 and $0.60
    assert price.cost_micros(1_000_000, 0, 0) == 150_000
    assert price.cost_micros(0, 0, 1_000_000) == 600_000
    assert price.cost_micros(1_000_000, 1_000_000, 0) == 15_000
    assert price.cost_micros(1_000_000, 500_000, 1_000_000, is_batch=True) == 341_250
    assert price.cost_micros(16, 0, 3) == 4  # 2.4 + 1.8
    assert Price(100_000, 0).cost_micros(5, 0, 0) == 1  # a half goes up


counts = st.integers(0, 10**9)
percents = st.integers(0, 100)


@given(counts, counts, counts, counts, counts, percents, percents, st.booleans())
def test_rounding_is_the_only_loss(
    input_micros: int,
    output_micros: int,
    fresh: int,
    cached: int,
    completion: int,
    cached_percent: int,
    batch_percent: int,
    is_batch: bool,
) -> None:
    price = Price(input_micros, output_micros, cached_percent, batch_percent)
    exact = Fraction(input_micros) * (fresh + cached * Fraction(cached_percent, 100))
    exact = (exact + output_micros * completion) / 1_000_000
    exact *= Fraction(batch_percent, 100) if is_batch else 1
    cost = price.cost_micros(fresh + cached, cached, completion, is_batch=is_batch)
    assert abs(cost - exact) <= Fraction(1, 2)


def test_a_price_holds_from_its_date_on(database: Database) -> None:
    now = now_ms()
    set_price(database, "tiny", Price(1, 2), now)
    set_price(database, "tiny", Price(3, 4, 5, 6), now + 1000)
    set_price(database, "other", Price(9, 9), now)
    set_price(database, "other", Price(8, 8), now)  # the same moment: replaced
    table = list_prices(database)
    assert price_at(table, "tiny", now - 1) == FREE
    assert price_at(table, "tiny", now + 999) == Price(1, 2)
    assert price_at(table, "tiny", now + 1000) == Price(3, 4, 5, 6)
    assert price_at(table, "other", now) == Price(8, 8)
    assert price_at(table, "unknown", now) == FREE
    with pytest.raises(StoreError, match="cannot begin in the past"):
        set_price(database, "tiny", Price(0, 0), now - 10**8)


def test_presets_are_the_hosted_prices() -> None:
    assert preset("mistral-small-2603") == Price(150_000, 600_000, 10, 50)
    assert preset("mistral-moderation-2603") == FREE
    assert len(PRESETS) == 15
    with pytest.raises(StoreNotFoundError, match="no price preset 'gpt'; there are mistral-large"):
        preset("gpt")
