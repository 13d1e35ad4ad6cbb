"""The ledger: one row per request that used compute, with its price as it was then.

The request's id is the row's key, so writing a row twice leaves one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, case, func, or_, select, text

from cierzo.store.db import Database
from cierzo.store.insert import insert_new
from cierzo.store.names import printable
from cierzo.store.tables import api_keys, organisations, usage_records, workspaces
from cierzo.store.workspaces import PATH

Status = Literal["ok", "aborted", "failed"]
By = Literal["organisation", "workspace", "key", "model", "endpoint", "day"]

DAY_MS = 86_400_000

_columns = usage_records.c


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One request. `created_at_ms` is when its row was made, which is when its answer ended.

    `upstream` names where it was computed, if not here. Where `usage_known` is false it did not
    say what it had used, and the counts are 0.
    """

    request_id: str
    created_at_ms: int
    workspace_id: str
    key_id: str | None
    model: str
    endpoint: str
    status: Status
    is_batch: bool
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    duration_ms: int
    price_micros: int
    upstream: str | None = None
    usage_known: bool = True


@dataclass(frozen=True, slots=True)
class UsageSum:
    """The records of one group, added up. `group` is () for the sum of all. Of `requests`, so
    many as `unknown_requests` add nothing but themselves."""

    group: tuple[str, ...]
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    price_micros: int
    unknown_requests: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Period:
    """From `since_ms` on and before `until_ms`, of an organisation, workspace or key, or of all.

    With `only_here` what upstreams computed is left out.
    """

    since_ms: int = 0
    until_ms: int | None = None
    workspace_id: str | None = None
    key_id: str | None = None
    is_batch: bool | None = None
    organisation_id: str | None = None
    only_here: bool = False

    def conditions(self) -> list[ColumnElement[bool]]:
        found = [_columns.created_at_ms >= self.since_ms]
        if self.until_ms is not None:
            found.append(_columns.created_at_ms < self.until_ms)
        if self.workspace_id is not None:
            found.append(_columns.workspace_id == printable(self.workspace_id))
        if self.key_id is not None:
            found.append(_columns.key_id == printable(self.key_id))
        if self.is_batch is not None:
            found.append(_columns.is_batch.is_(self.is_batch))
        if self.organisation_id is not None:
            of_it = workspaces.c.organisation_id == printable(self.organisation_id)
            found.append(_columns.workspace_id.in_(select(workspaces.c.id).where(of_it)))
        if self.only_here:
            found.append(_columns.upstream.is_(None))
        return found


def insert_usage(connection: Connection, records: Sequence[UsageRecord]) -> None:
    """Write them within the caller's transaction; those that are there already stay as they are."""
    insert_new(connection, usage_records, [asdict(record) for record in records])


def find(database: Database, request_id: str) -> UsageRecord | None:
    query = select(usage_records).where(_columns.request_id == request_id)
    row = database.read(lambda connection: connection.execute(query).first())
    return None if row is None else UsageRecord(**row._mapping)


def is_charged(status: str, completion_tokens: int, *, is_batch: bool) -> bool:
    """Not what failed, which was our fault, nor what was given up before anybody got a token, as
    is every line that was cut off with its batch job."""
    return status == "ok" or (status == "aborted" and completion_tokens > 0 and not is_batch)


_IS_CHARGED = or_(
    _columns.status == "ok",
    (_columns.status == "aborted") & (_columns.completion_tokens > 0) & ~_columns.is_batch,
)


def total(database: Database, period: Period, *, charged_only: bool = False) -> UsageSum:
    """The sum over a period."""
    return summarise(database, period, (), charged_only=charged_only)[0]


def summarise(
    database: Database, period: Period, by: Sequence[By], *, charged_only: bool = False
) -> list[UsageSum]:
    """Sums per group, in the groups' order; days are `2026-11-23` in UTC.

    Without `by` there is one sum, even of nothing.
    """
    query = _grouped(period, by)
    if charged_only:
        query = query.where(_IS_CHARGED)
    rows = database.read(lambda connection: connection.execute(query).all())
    return [
        UsageSum(
            tuple(_shown(kind, value) for kind, value in zip(by, row, strict=False)),
            *(int(value or 0) for value in row[len(by) :]),
        )
        for row in rows
    ]


def busy_ms(database: Database, period: Period) -> int:
    """How long at least one request of the period was being answered."""
    start = (_columns.created_at_ms - _columns.duration_ms).label("start")
    query = select(start, _columns.created_at_ms).where(*period.conditions()).order_by(start)

    def add_up(connection: Connection) -> int:
        total_ms, covered_until = 0, 0
        for begin, end in connection.execute(query.execution_options(yield_per=10_000)):
            total_ms += max(0, end - max(begin, covered_until))
            covered_until = max(covered_until, end)
        return total_ms

    return database.read(add_up)


def span_ms(database: Database, period: Period) -> int:
    """From the beginning of the first request of the period to the end of its last."""
    first = func.min(_columns.created_at_ms - _columns.duration_ms)
    query = select(first, func.max(_columns.created_at_ms)).where(*period.conditions())
    begin, end = database.read(lambda connection: connection.execute(query).one())
    return 0 if begin is None else int(end) - int(begin)


def _grouped(period: Period, by: Sequence[By]) -> Select[Any]:
    groups: dict[By, ColumnElement[Any]] = {
        "organisation": organisations.c.name,
        "workspace": PATH,
        "key": func.coalesce(api_keys.c.name + " (" + api_keys.c.id + ")", "no key"),
        "model": _columns.model,
        "endpoint": _columns.endpoint,
        # Integer division in both databases; the days since 1970 sort as dates do.
        "day": _columns.created_at_ms.op("/")(DAY_MS),
    }
    chosen = [groups[kind] for kind in by]
    sums = [
        func.sum(column)
        for column in (
            _columns.prompt_tokens,
            _columns.cached_tokens,
            _columns.completion_tokens,
            _columns.price_micros,
        )
    ]
    joined = (
        usage_records.join(workspaces, workspaces.c.id == _columns.workspace_id)
        .join(organisations, organisations.c.id == workspaces.c.organisation_id)
        .outerjoin(api_keys, api_keys.c.id == _columns.key_id)
    )
    unknown = func.count(case((_columns.usage_known.is_(False), 1)))
    query = (
        select(*chosen, func.count(), *sums, unknown)
        .select_from(joined)
        .where(*period.conditions())
    )
    if chosen:
        # By position: PostgreSQL would take two spellings of one parameter for two expressions.
        places = [text(str(number + 1)) for number in range(len(chosen))]
        query = query.group_by(*places).order_by(*places)
    return query


def _shown(kind: By, value: Any) -> str:
    if kind != "day":
        return str(value)
    return datetime.fromtimestamp(int(value) * DAY_MS / 1000, UTC).strftime("%Y-%m-%d")
