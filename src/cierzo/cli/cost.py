"""`cierzo cost`: what a million tokens cost on this machine, from what it really did."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import out, print_table
from cierzo.cli.options import micros
from cierzo.cli.period import Month, Since, period_of
from cierzo.cli.store import open_store
from cierzo.errors import StoreError
from cierzo.money import dollars

HOUR_MS = 3_600_000


def cost(
    machine_per_hour: Annotated[
        str, typer.Option(help="What the machine costs in an hour, in dollars.")
    ],
    month: Month = None,
    since: Since = None,
    as_json: options.Json = False,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Cost per million tokens at the traffic that the ledger has, beside the hosted prices.
    Upstreams' traffic is left out: this machine did not compute it.

    Busy: only the time in which requests were being answered, as if the machine were let by the
    second. Whole: all the time from the first request to the last.
    """
    hour_micros = micros(machine_per_hour, "--machine-per-hour")
    period = replace(period_of(month, since), only_here=True)
    from cierzo.store import ledger
    from cierzo.store.price_presets import PRESETS

    with open_store(data=data, database_url=database_url) as database:
        used = ledger.total(database, period, charged_only=True)
        busy_ms = ledger.busy_ms(database, period)
        span_ms = ledger.span_ms(database, period)
    if not used.total_tokens or not busy_ms:
        raise StoreError("there is nothing in the ledger of that time, so nothing to measure")
    per_million = {
        "busy": hour_micros * busy_ms * 1_000_000 // (HOUR_MS * used.total_tokens),
        "whole": hour_micros * span_ms * 1_000_000 // (HOUR_MS * used.total_tokens),
    }
    hosted = {
        name: price.of(used) * 1_000_000 // used.total_tokens for name, price in PRESETS.items()
    }
    if as_json:
        report = {
            "requests": used.requests,
            "prompt_tokens": used.prompt_tokens,
            "cached_tokens": used.cached_tokens,
            "completion_tokens": used.completion_tokens,
            "busy_s": busy_ms / 1000,
            "span_s": span_ms / 1000,
            "tok_s": used.total_tokens * 1000 / busy_ms,
            "micros_per_million_tokens": per_million,
            "hosted_micros_per_million_tokens": hosted,
        }
        typer.echo(json.dumps(report))
        return
    from rich.table import Table

    out.print(
        f"{used.requests} requests: {used.prompt_tokens} prompt tokens ({used.cached_tokens}"
        f" cached), {used.completion_tokens} completion tokens\n"
        f"busy {busy_ms / 1000:.0f} s of {span_ms / 1000:.0f} s, "
        f"{used.total_tokens * 1000 / busy_ms:.0f} tokens/s\n"
    )
    table = Table("this mix of tokens, per million", "$", box=None, pad_edge=False)
    table.add_row("this machine, busy time", dollars(per_million["busy"]))
    table.add_row("this machine, whole time", dollars(per_million["whole"]))
    for name, amount in hosted.items():
        table.add_row(name, dollars(amount))
    print_table(table)
