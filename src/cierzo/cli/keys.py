"""`cierzo keys …`: make, list, limit and revoke the server's API keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import err, out, print_table
from cierzo.cli.limits import describe_limits, with_limits
from cierzo.cli.store import day, open_store

if TYPE_CHECKING:
    from cierzo.store.api_keys import ApiKey
    from cierzo.store.limits import Limits

NameOrId = Annotated[str, typer.Argument(help="The key's name or id.", metavar="KEY")]


@with_limits
def create(
    name: Annotated[str, typer.Argument(help="What you will know it by.", metavar="NAME")],
    limits: Limits,
    workspace: Annotated[
        str, typer.Option(help="Its workspace: a name, ORGANISATION/NAME, or an id.")
    ] = "default",
    admin: Annotated[
        bool,
        typer.Option(
            "--admin",
            help="May use /v1/admin for its organisation; in the default one, for all of them, and"
            " /metrics.",
        ),
    ] = False,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="Confine it to: chat, fim, embeddings, classifiers, files, batch."
            " May be repeated.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Confine it to this model. May be repeated.", show_default=False),
    ] = None,
    expires_days: Annotated[
        float | None, typer.Option(min=0, help="Refuse it after so many days.", show_default=False)
    ] = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    from cierzo.ids import now_ms
    from cierzo.store import api_keys, workspaces
    from cierzo.store.ledger import DAY_MS

    with open_store(data=data, database_url=database_url) as database:
        key, spelling = api_keys.create(
            database,
            name,
            workspaces.find(database, workspace).id,
            is_admin=admin,
            endpoints=endpoint,
            models=model,
            expires_at_ms=None if expires_days is None else now_ms() + int(expires_days * DAY_MS),
            limits=limits,
        )
    err.print(f"key {key.id} of workspace {key.workspace}; keep it now, it cannot be shown again:")
    typer.echo(spelling)


def list_keys(
    workspace: Annotated[
        str | None, typer.Option(help="Only those of this one.", show_default=False)
    ] = None,
    as_json: options.Json = False,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """List the keys; never what they are spelled like."""
    from cierzo.store import api_keys, workspaces

    with open_store(data=data, database_url=database_url) as database:
        of = None if workspace is None else workspaces.find(database, workspace).id
        keys = api_keys.list_all(database, of)
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in keys]))
        return
    from rich.table import Table

    header = ("name", "id", "workspace", "may use", "limits", "state")
    table = Table(*header, box=None, pad_edge=False)
    for key in keys:
        table.add_row(
            key.name,
            key.id,
            key.workspace,
            _reach(key),
            describe_limits(key.limits),
            _state(key),
        )
    if keys:
        print_table(table)
    else:
        out.print("no keys yet: the server is open, on this machine only")


def revoke(
    key: NameOrId,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Refuse a key from now on; a running server follows within a second."""
    from cierzo.store import api_keys

    with open_store(data=data, database_url=database_url) as database:
        found = api_keys.find(database, key)
        api_keys.revoke(database, found.id)
    out.print(f"key {found.name} ({found.id}) of workspace {found.workspace} is revoked")


@with_limits
def limit(
    key: NameOrId,
    limits: Limits,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Set a key's limits; those that are not given are lifted."""
    from cierzo.store import api_keys

    with open_store(data=data, database_url=database_url) as database:
        found = api_keys.find(database, key)
        api_keys.set_limits(database, found.id, limits)
    out.print(f"key {found.name}: {describe_limits(limits) or 'no limits'}")


KEYS: dict[str, Callable[..., None]] = {
    "create": create,
    "list": list_keys,
    "limit": limit,
    "revoke": revoke,
}


def _reach(key: ApiKey) -> str:
    parts = ["admin"] if key.is_admin else []
    parts += [", ".join(key.endpoints or ("all endpoints",))]
    parts += ["of " + ", ".join(key.models)] if key.models else []
    return " ".join(parts)


def _state(key: ApiKey) -> str:
    from cierzo.ids import now_ms

    if key.revoked_at_ms is not None:
        return f"revoked {day(key.revoked_at_ms)}"
    if not key.is_live(now_ms()):
        return "expired" if key.archived_at_ms is None else "archived with its workspace"
    return "" if key.expires_at_ms is None else f"until {day(key.expires_at_ms)}"
