"""`cierzo keys …`: make, list, limit and revoke the server's API keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import err, out, print_table
from cierzo.cli.store import day, describe_limits, limits_of, open_store

if TYPE_CHECKING:
    from cierzo.store.api_keys import ApiKey

NameOrId = Annotated[str, typer.Argument(help="The key's name or id.", metavar="KEY")]
DAY_MS = 86_400_000


def create(
    name: Annotated[str, typer.Argument(help="What you will know it by.", metavar="NAME")],
    workspace: Annotated[str, typer.Option(help="Name or id of its workspace.")] = "default",
    admin: Annotated[
        bool, typer.Option("--admin", help="May use /v1/admin and /metrics, too.")
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
    budget_usd: options.BudgetUsd = None,
    requests_per_minute: options.RequestsPerMinute = None,
    tokens_per_minute: options.TokensPerMinute = None,
    tokens_per_month: options.TokensPerMonth = None,
    max_concurrent: options.MaxConcurrent = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    limits = limits_of(
        budget_usd, requests_per_minute, tokens_per_minute, tokens_per_month, max_concurrent
    )
    from cierzo.ids import now_ms
    from cierzo.store import api_keys, workspaces

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

    table = Table("name", "id", "workspace", "may use", "limits", "state", box=None, pad_edge=False)
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


def limit(
    key: NameOrId,
    budget_usd: options.BudgetUsd = None,
    requests_per_minute: options.RequestsPerMinute = None,
    tokens_per_minute: options.TokensPerMinute = None,
    tokens_per_month: options.TokensPerMonth = None,
    max_concurrent: options.MaxConcurrent = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Set a key's limits; those that are not given are lifted."""
    limits = limits_of(
        budget_usd, requests_per_minute, tokens_per_minute, tokens_per_month, max_concurrent
    )
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
        return "expired" if key.workspace_archived_at_ms is None else "workspace archived"
    return "" if key.expires_at_ms is None else f"until {day(key.expires_at_ms)}"
