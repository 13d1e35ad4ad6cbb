"""What was asked and answered, under the ledger's id, until its time is over.

What has expired is not shown any more, and deleted with the next one that is kept or the next
start of a server.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete, select

from cierzo.errors import StoreNotFoundError
from cierzo.ids import now_ms
from cierzo.store.db import Database
from cierzo.store.insert import insert_new
from cierzo.store.names import printable
from cierzo.store.tables import transcripts, workspaces

_columns = transcripts.c


@dataclass(frozen=True, slots=True)
class Transcript:
    """One request: its body as it came, and the answer's as it left, or as far as it did."""

    request_id: str
    workspace_id: str
    created_at_ms: int
    expires_at_ms: int
    request: bytes
    answer: bytes


def keep(database: Database, transcript: Transcript) -> None:
    def work(connection: Connection) -> None:
        _delete_expired(connection)
        insert_new(connection, transcripts, [asdict(transcript)])

    database.write(work)


def find(database: Database, request_id: str, organisation_id: str | None = None) -> Transcript:
    """That of a request of one organisation's, or of any. Raises StoreNotFoundError."""
    query = select(transcripts).where(
        _columns.request_id == printable(request_id), _columns.expires_at_ms > now_ms()
    )
    if organisation_id is not None:
        of_it = workspaces.c.organisation_id == organisation_id
        query = query.join(workspaces, workspaces.c.id == _columns.workspace_id).where(of_it)
    row = database.read(lambda connection: connection.execute(query).first())
    if row is None:
        raise StoreNotFoundError(f"there is no transcript of request {request_id[:64]!r}")
    return Transcript(**row._mapping)


def delete_expired(database: Database) -> None:
    database.write(_delete_expired)


def _delete_expired(connection: Connection) -> None:
    connection.execute(delete(transcripts).where(_columns.expires_at_ms <= now_ms()))
