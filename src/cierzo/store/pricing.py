"""What tokens cost: a price table per model with effective dates, in exact integers.

Prices are micros (millionths of a dollar) per million tokens, as people quote them: $0.15 per
million is 150_000. A model without a price costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, select

from cierzo.errors import StoreError
from cierzo.ids import now_ms
from cierzo.store.db import Database
from cierzo.store.insert import insert_new
from cierzo.store.ledger import UsageSum
from cierzo.store.names import checked_name
from cierzo.store.tables import prices

CACHED_PERCENT = 10
BATCH_PERCENT = 50
"""What the hosted service bills of an input token from its cache, and of a batch's tokens."""

MAX_MICROS = 10**12
"""A million dollars per million tokens: past it sums would leave the columns."""

_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Micros per million tokens, and per cent of them for cached input and for batches."""

    input_micros: int
    output_micros: int
    cached_percent: int = CACHED_PERCENT
    batch_percent: int = BATCH_PERCENT

    def __post_init__(self) -> None:
        for name, amount in asdict(self).items():
            bound = 100 if name.endswith("percent") else MAX_MICROS
            if not 0 <= amount <= bound:
                raise StoreError(f"{name} must be between 0 and {bound}; got {amount}")

    def cost_micros(
        self,
        prompt_tokens: int,
        cached_tokens: int,
        completion_tokens: int,
        *,
        is_batch: bool = False,
    ) -> int:
        """Of one request, rounded once, a half up. `cached_tokens` are among `prompt_tokens`."""
        full = self.input_micros * (prompt_tokens - cached_tokens) * 100
        cached = self.input_micros * cached_tokens * self.cached_percent
        amount = full + cached + self.output_micros * completion_tokens * 100
        amount *= self.batch_percent if is_batch else 100
        divisor = _TOKENS * 100 * 100
        return (2 * amount + divisor) // (2 * divisor)

    def of(self, usage: UsageSum, *, is_batch: bool = False) -> int:
        """Of many requests together, rounded once."""
        counts = usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens
        return self.cost_micros(*counts, is_batch=is_batch)


FREE = Price(0, 0)


@dataclass(frozen=True, slots=True)
class DatedPrice:
    """A model's price from a moment on (unix milliseconds), until the next one."""

    model: str
    effective_at_ms: int
    price: Price


def set_price(database: Database, model: str, price: Price, effective_at_ms: int) -> None:
    """From that moment on; one of the same moment is replaced. Past records keep their price.

    Raises StoreError for a moment in the past, which requests have been charged in already.
    """
    # A minute's grace: "from now on" was read off a clock that is not ours.
    if effective_at_ms < now_ms() - 60_000:
        raise StoreError("a price cannot begin in the past: what was charged stays as it was")
    row = {"model": checked_name(model), "effective_at_ms": effective_at_ms, **asdict(price)}
    same = (prices.c.model == model) & (prices.c.effective_at_ms == effective_at_ms)

    def replace(connection: Connection) -> None:
        connection.execute(delete(prices).where(same))
        insert_new(connection, prices, [row])

    database.write(replace)


def list_prices(database: Database) -> list[DatedPrice]:
    """All of them, by model, then oldest first."""
    query = select(prices).order_by(prices.c.model, prices.c.effective_at_ms)
    return [_dated(row) for row in database.read(lambda c: c.execute(query).all())]


def price_at(table: Iterable[DatedPrice], model: str, at_ms: int) -> Price:
    """The newest price of the model that was in force at that moment."""
    in_force = [row for row in table if row.model == model and row.effective_at_ms <= at_ms]
    return max(in_force, key=lambda row: row.effective_at_ms).price if in_force else FREE


def _dated(row: Row[Any]) -> DatedPrice:
    price = Price(row.input_micros, row.output_micros, row.cached_percent, row.batch_percent)
    return DatedPrice(row.model, row.effective_at_ms, price)
