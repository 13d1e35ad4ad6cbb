"""Fixtures: a store, priced, beside a worker that does not wait long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cierzo.ids import now_ms
from cierzo.jobs import gate, worker
from cierzo.store import Database, pricing
from cierzo.store.pricing import Price
from tests.store.temporary import temporary_database

PRICE = Price(1_000_000, 2_000_000)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(worker, "LOOK_S", 0.05)
    monkeypatch.setattr(gate, "QUIET_S", 0.05)
    with temporary_database() as database:
        for model in ("tiny", "far"):
            pricing.set_price(database, model, PRICE, now_ms())
        yield database
