"""`cierzo models`: what is on this machine, and what can be fetched by name."""

from __future__ import annotations

from typing import Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import megabytes, out


def models(
    catalogue: Annotated[
        bool, typer.Option("--catalogue", help="List the names that can be pulled instead.")
    ] = False,
    home: options.Home = None,
) -> None:
    """List the models on this machine."""
    from rich.table import Table

    from cierzo import hub

    settings = options.settings_of(home=home)
    table = Table("model", box=None, pad_edge=False)
    table.add_column("from")
    table.add_column("licence")
    if catalogue:
        for entry in hub.CATALOGUE.values():
            table.add_row(entry.name, str(entry.sources[0]), entry.licence)
        out.print(table)
        return
    table.add_column("size", justify="right")
    pulled = hub.list_models(settings.home)
    for model in pulled:
        table.add_row(model.name, model.source, model.licence, megabytes(model.size_bytes))
    if pulled:
        out.print(table)
    else:
        out.print("no models here yet; `cierzo models --catalogue` lists those known by name")
