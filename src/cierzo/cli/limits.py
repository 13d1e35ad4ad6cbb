"""The limits of a key, a workspace or an organisation as flags and as a line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cierzo.cli.console import print_table
from cierzo.cli.options import micros
from cierzo.cli.store import day
from cierzo.money import dollars

if TYPE_CHECKING:
    from cierzo.store.limits import Limits
    from cierzo.store.organisations import Organisation
    from cierzo.store.workspaces import Workspace


def _flags(
    budget_usd: Annotated[
        str | None, typer.Option(help="Most dollars a month; past it: 402.", show_default=False)
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=0, help="Past it: 429.", show_default=False)
    ] = None,
    tokens_per_minute: Annotated[
        int | None,
        typer.Option(min=0, help="Prompt and completion; past it: 429.", show_default=False),
    ] = None,
    tokens_per_month: Annotated[
        int | None,
        typer.Option(min=0, help="Prompt and completion; past it: 429.", show_default=False),
    ] = None,
    max_concurrent: Annotated[
        int | None,
        typer.Option(min=1, help="Most requests at once; past it: 429.", show_default=False),
    ] = None,
) -> Limits:
    from cierzo.store.limits import Limits

    return Limits(
        budget_micros_month=None if budget_usd is None else micros(budget_usd, "--budget-usd"),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        tokens_per_month=tokens_per_month,
        max_concurrent=max_concurrent,
    )


def with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """The command with a flag for each limit, of which it is given one argument, `limits`."""
    names = {"Limits": object}  # commands import it for type checkers only: --help is quick
    flags = inspect.signature(_flags, eval_str=True, locals=names).parameters
    own = inspect.signature(command, eval_str=True, locals=names)
    shown = {name: one for name, one in own.parameters.items() if name != "limits"} | flags

    @wraps(command)
    def run(**given: Any) -> None:
        limits = _flags(**{name: given.pop(name) for name in flags})
        command(**given, limits=limits)

    run.__annotations__ = {name: one.annotation for name, one in shown.items()}
    vars(run)["__signature__"] = own.replace(parameters=list(shown.values()))
    return run


def print_owners(owners: Iterable[tuple[str, Organisation | Workspace]]) -> None:
    """A line for each, under the name given, with its limits."""
    from rich.table import Table

    table = Table("name", "id", "since", "limits", "state", box=None, pad_edge=False)
    for name, owner in owners:
        archived = owner.archived_at_ms
        since, limits = day(owner.created_at_ms), describe_limits(owner.limits)
        state = "" if archived is None else f"archived {day(archived)}"
        table.add_row(name, owner.id, since, limits, state)
    print_table(table)


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
