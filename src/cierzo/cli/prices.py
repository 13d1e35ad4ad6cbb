"""`cierzo prices …`: what a model's tokens cost here, and what the hosted service takes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import out, print_table
from cierzo.cli.options import micros
from cierzo.cli.store import day, open_store
from cierzo.money import dollars

if TYPE_CHECKING:
    from cierzo.store.pricing import Price


def set_price(
    model: Annotated[
        str, typer.Argument(help="The model's id, as GET /v1/models shows it.", metavar="MODEL")
    ],
    input_usd: Annotated[
        str | None,
        typer.Option("--in", help="Dollars per million prompt tokens.", show_default=False),
    ] = None,
    output_usd: Annotated[
        str | None,
        typer.Option("--out", help="Dollars per million completion tokens.", show_default=False),
    ] = None,
    as_hosted: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="The price of this hosted model instead.",
            metavar="PRESET",
            show_default=False,
        ),
    ] = None,
    cached_percent: Annotated[
        int, typer.Option(min=0, max=100, help="Of the input's price, for cached tokens.")
    ] = 10,
    batch_percent: Annotated[
        int, typer.Option(min=0, max=100, help="Of all prices, in batch jobs.")
    ] = 50,
    since: Annotated[
        datetime | None,
        typer.Option(
            "--from", help="When it begins, in UTC; now if not given.", show_default=False
        ),
    ] = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Set a model's price from now on, or from a later moment; past records keep theirs."""
    from cierzo.ids import now_ms
    from cierzo.store import pricing
    from cierzo.store.price_presets import preset

    if as_hosted is not None and (input_usd, output_usd) == (None, None):
        price = preset(as_hosted)
    elif as_hosted is None and input_usd is not None:
        price = pricing.Price(
            micros(input_usd, "--in"),
            micros(output_usd or "0", "--out"),
            cached_percent,
            batch_percent,
        )
    else:
        raise typer.BadParameter("give --in and --out, or --as")
    at_ms = now_ms() if since is None else int(since.replace(tzinfo=UTC).timestamp() * 1000)
    with open_store(data=data, database_url=database_url) as database:
        pricing.set_price(database, model, price, at_ms)
    out.print(f"{model}: {_shown(price)} per million tokens, from {day(at_ms)} on")


def list_prices(data: options.Data = None, database_url: options.DatabaseUrl = None) -> None:
    """List the prices, also those of the past and of the future."""
    from rich.table import Table

    from cierzo.store import pricing

    with open_store(data=data, database_url=database_url) as database:
        found = pricing.list_prices(database)
    if not found:
        out.print("no prices yet: everything is free; `cierzo prices set` sets one")
        return
    table = Table("model", "from", "per million tokens", "cached", "batch", box=None)
    for row in found:
        price = row.price
        percents = f"{price.cached_percent} %", f"{price.batch_percent} %"
        table.add_row(row.model, day(row.effective_at_ms), _shown(price), *percents)
    print_table(table)


def list_presets() -> None:
    """List the hosted service's prices, as of August 2026."""
    from rich.table import Table

    from cierzo.store.price_presets import PRESETS

    table = Table("preset", "per million tokens", box=None)
    for name, price in PRESETS.items():
        table.add_row(name, _shown(price))
    print_table(table)


PRICES: dict[str, Callable[..., None]] = {
    "set": set_price,
    "list": list_prices,
    "presets": list_presets,
}


def _shown(price: Price) -> str:
    return f"${dollars(price.input_micros)} in, ${dollars(price.output_micros)} out"
