"""`cierzo workspaces …`: make, list, limit and archive workspaces."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import out, print_table
from cierzo.cli.store import day, describe_limits, limits_of, open_store

NameOrId = Annotated[str, typer.Argument(help="The workspace's name or id.", metavar="WORKSPACE")]


def create(
    name: Annotated[str, typer.Argument(help="What you will know it by.", metavar="NAME")],
    budget_usd: options.BudgetUsd = None,
    requests_per_minute: options.RequestsPerMinute = None,
    tokens_per_minute: options.TokensPerMinute = None,
    tokens_per_month: options.TokensPerMonth = None,
    max_concurrent: options.MaxConcurrent = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Make a workspace; its limits hold for all of its keys together."""
    limits = limits_of(
        budget_usd, requests_per_minute, tokens_per_minute, tokens_per_month, max_concurrent
    )
    from cierzo.store import workspaces

    with open_store(data=data, database_url=database_url) as database:
        workspace = workspaces.create(database, name, limits)
    out.print(f"workspace {workspace.name} ({workspace.id})")


def list_workspaces(
    as_json: options.Json = False,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """List the workspaces."""
    from cierzo.store import workspaces

    with open_store(data=data, database_url=database_url) as database:
        found = workspaces.list_all(database)
    if as_json:
        typer.echo(json.dumps([asdict(workspace) for workspace in found]))
        return
    from rich.table import Table

    table = Table("name", "id", "since", "limits", "state", box=None, pad_edge=False)
    for workspace in found:
        archived = workspace.archived_at_ms
        table.add_row(
            workspace.name,
            workspace.id,
            day(workspace.created_at_ms),
            describe_limits(workspace.limits),
            "" if archived is None else f"archived {day(archived)}",
        )
    print_table(table)


def limit(
    workspace: NameOrId,
    budget_usd: options.BudgetUsd = None,
    requests_per_minute: options.RequestsPerMinute = None,
    tokens_per_minute: options.TokensPerMinute = None,
    tokens_per_month: options.TokensPerMonth = None,
    max_concurrent: options.MaxConcurrent = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Set a workspace's limits; those that are not given are lifted."""
    limits = limits_of(
        budget_usd, requests_per_minute, tokens_per_minute, tokens_per_month, max_concurrent
    )
    from cierzo.store import workspaces

    with open_store(data=data, database_url=database_url) as database:
        found = workspaces.find(database, workspace)
        workspaces.set_limits(database, found.id, limits)
    out.print(f"workspace {found.name}: {describe_limits(limits) or 'no limits'}")


def archive(
    workspace: NameOrId,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """End a workspace: its keys are refused from now on, its records stay."""
    from cierzo.store import workspaces

    with open_store(data=data, database_url=database_url) as database:
        found = workspaces.find(database, workspace)
        workspaces.archive(database, found.id)
    out.print(f"workspace {found.name} is archived")


WORKSPACES: dict[str, Callable[..., None]] = {
    "create": create,
    "list": list_workspaces,
    "limit": limit,
    "archive": archive,
}
