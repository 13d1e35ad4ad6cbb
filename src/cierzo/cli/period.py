"""A stretch of the ledger, as commands take it: a month, or since a day."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cierzo.store.ledger import Period

Month = Annotated[
    str | None,
    typer.Option(help="Only this one, as 2026-11, in UTC.", metavar="YYYY-MM", show_default=False),
]
Since = Annotated[
    str | None,
    typer.Option(help="Only from this day on, in UTC.", metavar="YYYY-MM-DD", show_default=False),
]


def period_of(
    month: str | None,
    since: str | None,
    *,
    workspace_id: str | None = None,
    key_id: str | None = None,
    is_batch: bool | None = None,
) -> Period:
    """Raises BadParameter."""
    from cierzo.store.ledger import Period

    if month is not None and since is not None:
        raise typer.BadParameter("give --month or --since, not both")
    if month is not None:
        start = _parse(month, "%Y-%m", "--month")
        years, index = divmod(start.month, 12)
        end = start.replace(year=start.year + years, month=index + 1)
        return Period(_ms(start), _ms(end), workspace_id, key_id, is_batch)
    start_ms = 0 if since is None else _ms(_parse(since, "%Y-%m-%d", "--since"))
    return Period(start_ms, None, workspace_id, key_id, is_batch)


def _parse(text: str, form: str, flag: str) -> datetime:
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        raise typer.BadParameter(
            f"{flag} is {text!r}; it looks like 2026-11 or 2026-11-23"
        ) from None


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000
