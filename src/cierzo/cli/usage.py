"""`cierzo usage`: the ledger added up, and what it would have cost on the hosted service."""

from __future__ import annotations

import csv
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cierzo.cli import options
from cierzo.cli.console import print_table
from cierzo.cli.period import Month, Since, period_of
from cierzo.cli.store import open_store
from cierzo.money import dollars

if TYPE_CHECKING:
    from cierzo.store.ledger import By, UsageSum

COLUMNS = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "price_usd",
    "unknown_requests",
)


Group = StrEnum("Group", ["organisation", "workspace", "key", "model", "endpoint", "day"])


def usage(
    by: Annotated[
        list[Group] | None,
        typer.Option(help="A line for each; may be repeated.", show_default=False),
    ] = None,
    month: Month = None,
    since: Since = None,
    organisation: Annotated[
        str | None, typer.Option(help="Only this one's, by name or id.", show_default=False)
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(help="Only this one's, by name or id.", show_default=False)
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Only this one's, by name or id.", show_default=False)
    ] = None,
    hosted: Annotated[
        str | None,
        typer.Option(
            help="Add what the same tokens cost as this hosted model;"
            " `cierzo prices presets` lists them.",
            metavar="PRESET",
            show_default=False,
        ),
    ] = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Comma-separated values instead of a table.")
    ] = False,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Add up what was used, and what it cost."""
    from dataclasses import replace

    from cierzo.store import api_keys, ledger, organisations, workspaces
    from cierzo.store.price_presets import preset

    period = period_of(month, since)
    price = None if hosted is None else preset(hosted)
    groups = cast("list[By]", [group.value for group in by or ()])
    with open_store(data=data, database_url=database_url) as database:
        if organisation is not None:
            its_id = organisations.find(database, organisation).id
            period = replace(period, organisation_id=its_id)
        if workspace is not None:
            period = replace(period, workspace_id=workspaces.find(database, workspace).id)
        if key is not None:
            period = replace(period, key_id=api_keys.find(database, key).id)
        sums = ledger.summarise(database, period, groups)
        there: dict[tuple[str, ...], int] = {}
        for is_batch in () if price is None else (False, True):
            part = replace(period, is_batch=is_batch)
            for charged in ledger.summarise(database, part, groups, charged_only=True):
                assert price is not None
                cost = price.of(charged, is_batch=is_batch)
                there[charged.group] = there.get(charged.group, 0) + cost
    header = [*groups, *COLUMNS, *(() if hosted is None else (f"{hosted}_usd",))]
    rows = [_row(line, None if hosted is None else there.get(line.group, 0)) for line in sums]
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(header)
        writer.writerows(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for position, name in enumerate(header):
        table.add_column(name, justify="left" if position < len(groups) else "right")
    for row in rows:
        table.add_row(*row)
    print_table(table)


def _row(line: UsageSum, there_micros: int | None) -> list[str]:
    counts = (line.requests, line.prompt_tokens, line.cached_tokens, line.completion_tokens)
    there = [] if there_micros is None else [dollars(there_micros)]
    unknown = str(line.unknown_requests)
    return [*line.group, *map(str, counts), dollars(line.price_micros), unknown, *there]
