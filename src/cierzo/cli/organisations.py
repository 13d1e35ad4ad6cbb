"""`cierzo organisations …`: make, list, limit and archive organisations."""

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
    str, typer.Argument(help="The organisation's name or id.", metavar="ORGANISATION")
]


@with_limits
def create(
    name: Annotated[str, typer.Argument(help="What you will know it by.", metavar="NAME")],
    limits: Limits,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Make an organisation; its limits hold for all of its workspaces together."""
    from cierzo.store import organisations

    with open_store(data=data, database_url=database_url) as database:
        organisation = organisations.create(database, name, limits)
    out.print(f"organisation {organisation.name} ({organisation.id})")


def list_organisations(
    as_json: options.Json = False,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """List the organisations."""
    from cierzo.store import organisations

    with open_store(data=data, database_url=database_url) as database:
        found = organisations.list_all(database)
    if as_json:
        typer.echo(json.dumps([asdict(organisation) for organisation in found]))
        return
    print_owners([(organisation.name, organisation) for organisation in found])


@with_limits
def limit(
    organisation: NameOrId,
    limits: Limits,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Set an organisation's limits; those that are not given are lifted."""
    from cierzo.store import organisations

    with open_store(data=data, database_url=database_url) as database:
        found = organisations.find(database, organisation)
        organisations.set_limits(database, found.id, limits)
    out.print(f"organisation {found.name}: {describe_limits(limits) or 'no limits'}")


def archive(
    organisation: NameOrId,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """End an organisation: the keys of its workspaces are refused from now on, its records stay."""
    from cierzo.store import organisations

    with open_store(data=data, database_url=database_url) as database:
        found = organisations.find(database, organisation)
        organisations.archive(database, found.id)
    out.print(f"organisation {found.name} is archived")


ORGANISATIONS: dict[str, Callable[..., None]] = {
    "create": create,
    "list": list_organisations,
    "limit": limit,
    "archive": archive,
}
