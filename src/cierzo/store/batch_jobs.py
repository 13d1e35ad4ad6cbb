"""Batch jobs: what was asked, how far they are, their answered lines while they run.

An answered line, the job's counters and the ledger's row are one transaction, so a line is
done and charged, or neither. Every step names the states it starts from, so running it
twice, or after a cancellation, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from cierzo.errors import StoreNotFoundError
from cierzo.ids import now_ms
from cierzo.store.db import Database
from cierzo.store.files import FileRecord, insert_file
from cierzo.store.insert import insert_new
from cierzo.store.ledger import UsageRecord, insert_usage
from cierzo.store.names import printable
from cierzo.store.tables import batch_jobs, batch_lines

Status = Literal[
    "QUEUED",
    "RUNNING",
    "SUCCESS",
    "FAILED",
    "TIMEOUT_EXCEEDED",
    "CANCELLATION_REQUESTED",
    "CANCELLED",
]
UNFINISHED = ("QUEUED", "RUNNING", "CANCELLATION_REQUESTED")

_columns = batch_jobs.c


@dataclass(frozen=True, slots=True)
class BatchJob:
    """One row. `labels` is what the wire calls metadata; `inline_file` keeps inline requests."""

    id: str
    workspace_id: str
    key_id: str | None
    endpoint: str
    model: str | None
    labels: dict[str, str] | None
    input_files: list[str]
    inline_file: str | None
    timeout_hours: int
    status: Status = "QUEUED"
    errors: list[dict[str, Any]] = field(default_factory=list)
    num_requests: int = 0
    num_succeeded: int = 0
    num_failed: int = 0
    output_file: str | None = None
    error_file: str | None = None
    created_at_ms: int = field(default_factory=now_ms)
    started_at_ms: int | None = None
    completed_at_ms: int | None = None

    @property
    def deadline_ms(self) -> int:
        return self.created_at_ms + self.timeout_hours * 3_600_000

    @property
    def is_finished(self) -> bool:
        return self.status not in UNFINISHED


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs a listing shows; an empty field leaves nothing out."""

    model: str = ""
    statuses: Sequence[str] = ()
    created_after_ms: int | None = None
    key_id: str | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        if self.model:
            yield _columns.model == printable(self.model)
        if self.statuses:
            yield _columns.status.in_([printable(status) for status in self.statuses])
        if self.created_after_ms is not None:
            yield _columns.created_at_ms > self.created_after_ms
        if self.key_id is not None:
            yield _columns.key_id == self.key_id
        for name, value in self.labels:
            yield _columns.labels[printable(name)].as_string() == printable(value)


def create(database: Database, job: BatchJob) -> None:
    database.write(lambda connection: insert_new(connection, batch_jobs, [asdict(job)]))


def get(database: Database, workspace_id: str, job_id: str) -> BatchJob:
    """Raises StoreNotFoundError."""
    found = find(database, job_id)
    if found is None or found.workspace_id != workspace_id:
        raise StoreNotFoundError(f"there is no batch job {job_id[:64]!r} here")
    return found


def find(database: Database, job_id: str) -> BatchJob | None:
    query = select(batch_jobs).where(_columns.id == printable(job_id))
    row = database.read(lambda connection: connection.execute(query).first())
    return None if row is None else BatchJob(**row._mapping)


def list_jobs(
    database: Database,
    workspace_id: str,
    chosen: Filter,
    offset: int,
    limit: int,
    *,
    oldest_first: bool,
) -> tuple[list[BatchJob], int]:
    """A page of a workspace's jobs, and how many there are in all."""
    where = (_columns.workspace_id == workspace_id, *chosen.conditions())
    order = _columns.id.asc() if oldest_first else _columns.id.desc()
    page = select(batch_jobs).where(*where).order_by(order).offset(offset).limit(limit)

    def work(connection: Connection) -> tuple[list[BatchJob], int]:
        rows = connection.execute(page).all()
        total = connection.scalar(select(func.count()).select_from(batch_jobs).where(*where))
        return [BatchJob(**row._mapping) for row in rows], total or 0

    return database.read(work)


def unfinished(database: Database) -> list[BatchJob]:
    """Oldest first."""
    query = select(batch_jobs).where(_columns.status.in_(UNFINISHED)).order_by(_columns.id)
    rows = database.read(lambda connection: connection.execute(query).all())
    return [BatchJob(**row._mapping) for row in rows]


def start(database: Database, job_id: str, num_requests: int) -> None:
    """Its requests are counted and sound."""
    _change(database, job_id, ("QUEUED",), status="RUNNING", num_requests=num_requests)
    _change(database, job_id, ("RUNNING",), started_at_ms=now_ms())


def request_cancellation(database: Database, job_id: str) -> None:
    """Of a job that is not over; whoever runs it ends it."""
    _change(database, job_id, ("QUEUED", "RUNNING"), status="CANCELLATION_REQUESTED")


def remove(database: Database, job_id: str) -> None:
    """The job and its lines; its files and its rows in the ledger stay. Raises
    StoreNotFoundError."""

    def work(connection: Connection) -> int:
        connection.execute(delete(batch_lines).where(batch_lines.c.job_id == job_id))
        return connection.execute(delete(batch_jobs).where(_columns.id == job_id)).rowcount

    if not database.write(work):
        raise StoreNotFoundError(f"there is no batch job {job_id!r} here")


def answered_lines(database: Database, job_id: str) -> set[int]:
    query = select(batch_lines.c.number).where(batch_lines.c.job_id == job_id)
    return set(database.read(lambda connection: connection.scalars(query).all()))


def keep_line(
    database: Database,
    job_id: str,
    number: int,
    line: bytes,
    rows: Sequence[UsageRecord],
    *,
    is_success: bool,
) -> bool:
    """A line's answer and its rows in the ledger; False, and neither, for a job that is over or
    gone."""
    new = {"job_id": job_id, "number": number, "is_success": is_success, "line": line}
    counter = _columns.num_succeeded if is_success else _columns.num_failed

    def work(connection: Connection) -> bool:
        unended = (_columns.id == job_id, _columns.status.in_(UNFINISHED))
        query = select(_columns.id).where(*unended).with_for_update()
        if connection.execute(query).first() is None:
            return False
        insert_usage(connection, rows)
        same = (batch_lines.c.job_id == job_id, batch_lines.c.number == number)
        if connection.execute(select(batch_lines.c.number).where(*same)).first() is None:
            insert_new(connection, batch_lines, [new])
            connection.execute(update(batch_jobs).where(*unended).values({counter: counter + 1}))
        return True

    return database.write(work)


def record_cut_off(database: Database, job_id: str, rows: Sequence[UsageRecord]) -> None:
    """What lines used that nobody will get, once their job is over or gone; it costs nothing."""
    free = [replace(row, status="aborted", price_micros=0) for row in rows]
    unended = select(_columns.id).where(_columns.id == job_id, _columns.status.in_(UNFINISHED))

    def work(connection: Connection) -> None:
        if connection.execute(unended).first() is None:
            insert_usage(connection, free)

    database.write(work)


def lines(connection: Connection, job_id: str, *, is_success: bool) -> Iterator[bytes]:
    """The answered lines in order."""
    query = (
        select(batch_lines.c.line)
        .where(batch_lines.c.job_id == job_id, batch_lines.c.is_success.is_(is_success))
        .order_by(batch_lines.c.number)
    )
    yield from connection.execute(query.execution_options(yield_per=500)).scalars()


def finish(
    database: Database,
    job_id: str,
    status: Status,
    errors: Sequence[dict[str, Any]],
    output: FileRecord | None,
    failures: FileRecord | None,
) -> bool:
    """The end of a job: its files appear, its lines go.

    False for a job that is over or gone, or that has got more lines than the files hold.
    """
    counts = [0 if one is None else one.num_lines for one in (output, failures)]
    ends = {
        "status": status,
        "errors": list(errors),
        "output_file": output.id if output is not None else None,
        "error_file": failures.id if failures is not None else None,
        "completed_at_ms": now_ms(),
    }

    def work(connection: Connection) -> bool:
        change = update(batch_jobs).where(
            _columns.id == job_id,
            _columns.status.in_(UNFINISHED),
            _columns.num_succeeded == counts[0],
            _columns.num_failed == counts[1],
        )
        if not connection.execute(change.values(ends)).rowcount:
            return False
        for record in (output, failures):
            if record is not None:
                insert_file(connection, record)
        connection.execute(delete(batch_lines).where(batch_lines.c.job_id == job_id))
        return True

    return database.write(work)


def _change(database: Database, job_id: str, before: Sequence[str], **values: Any) -> None:
    change = update(batch_jobs).where(_columns.id == job_id, _columns.status.in_(before))
    database.write(lambda connection: connection.execute(change.values(**values)))
