"""The store for a command, and how commands print and read what is in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

import typer

from cierzo.cli import options

if TYPE_CHECKING:
    from cierzo.settings import Settings
    from cierzo.store import Database
    from cierzo.store.limits import Limits

MICROS = 1_000_000


def open_store(**flags: object) -> AbstractContextManager[Database]:
    """The database that the settings name, with these flags; closed at the end."""
    return store_of(options.settings_of(**flags))


@contextmanager
def store_of(settings: Settings) -> Iterator[Database]:
    """The database that these settings name, closed at the end."""
    from cierzo.store import open_database

    database = open_database(settings.data, url_of(settings))
    try:
        yield database
    finally:
        database.close()


def url_of(settings: Settings) -> str | None:
    """The database's URL with its password, for the store only."""
    return settings.database_url.get_secret_value() if settings.database_url else None


def limits_of(
    budget_usd: str | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    tokens_per_month: int | None,
    max_concurrent: int | None,
) -> Limits:
    from cierzo.store.limits import Limits

    return Limits(
        budget_micros_month=None if budget_usd is None else micros(budget_usd, "--budget-usd"),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        tokens_per_month=tokens_per_month,
        max_concurrent=max_concurrent,
    )


def micros(amount: str, flag: str) -> int:
    """Dollars as people write them → micros, exactly. Raises BadParameter."""
    try:
        value = Decimal(amount.removeprefix("$")) * MICROS
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0 or value != value.to_integral_value():
        raise typer.BadParameter(
            f"{flag} is {amount!r}; it must be dollars with at most 6 decimals, such as 12.50"
        )
    return int(value)


def dollars(amount_micros: int) -> str:
    """`0.15`, `12.50`, `0.000012`: as many decimals as it has, two at least."""
    text = f"{amount_micros / MICROS:.6f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals:0<2}"


def day(at_ms: int | None) -> str:
    """`2026-11-23`, in UTC."""
    return "" if at_ms is None else time.strftime("%Y-%m-%d", time.gmtime(at_ms / 1000))


def describe_limits(limits: Limits) -> str:
    """`$5.00/month, 60 requests/min`; empty without any."""
    words = {
        "requests_per_minute": "{} requests/min",
        "tokens_per_minute": "{} tokens/min",
        "tokens_per_month": "{} tokens/month",
        "max_concurrent": "{} at once",
    }
    parts = []
    if limits.budget_micros_month is not None:
        parts.append(f"${dollars(limits.budget_micros_month)}/month")
    for name, text in words.items():
        value = getattr(limits, name)
        if value is not None:
            parts.append(text.format(value))
    return ", ".join(parts)
