"""`cierzo workspaces …`: make, list, limit and archive workspaces."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import out
from cierzo.cli.limits import describe_limits, print_owners, with_limits
from cierzo.cli.store import open_store

if TYPE_CHECKING:
    from cierzo.store.limits import Limits

NameOrId = Annotated[
    str,
    typer.Argument(help="The workspace: a name, ORGANISATION/NAME, or an id.", metavar="WORKSPACE"),
]


@with_limits
def create(
    name: Annotated[str, typer.Argument(help="What you will know it by.", metavar="NAME")],
    limits: Limits,
    organisation: Annotated[
        str, typer.Option(help="Name or id of the organisation that it belongs to.")
    ] = "default",
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Make a workspace; its limits hold for all of its keys together."""
    from cierzo.store import organisations, workspaces

    with open_store(data=data, database_url=database_url) as database:
        owner = organisations.find(database, organisation)
        workspace = workspaces.create(database, name, limits, owner.id)
    out.print(f"workspace {workspace.path} ({workspace.id})")


def list_workspaces(
    as_json: options.Json = False,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """List the workspaces of all organisations."""
    from cierzo.store import workspaces

    with open_store(data=data, database_url=database_url) as database:
        found = workspaces.list_all(database)
    if as_json:
        typer.echo(json.dumps([asdict(workspace) for workspace in found]))
        return
    print_owners([(workspace.path, workspace) for workspace in found])


@with_limits
def limit(
    workspace: NameOrId,
    limits: Limits,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Set a workspace's limits; those that are not given are lifted."""
    from cierzo.store import workspaces

    with open_store(data=data, database_url=database_url) as database:
        found = workspaces.find(database, workspace)
        workspaces.set_limits(database, found.id, limits)
    out.print(f"workspace {found.path}: {describe_limits(limits) or 'no limits'}")


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
    out.print(f"workspace {found.path} is archived")


WORKSPACES: dict[str, Callable[..., None]] = {
    "create": create,
    "list": list_workspaces,
    "limit": limit,
    "archive": archive,
}
