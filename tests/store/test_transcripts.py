"""A transcript is there until its time is over, and then it is gone."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from cierzo.errors import StoreNotFoundError
from cierzo.ids import now_ms
from cierzo.store import organisations, tables, transcripts
from cierzo.store.db import Database
from cierzo.store.tables import DEFAULT_ID
from cierzo.store.transcripts import Transcript


def made(request_id: str, expires_at_ms: int) -> Transcript:
    return Transcript(request_id, DEFAULT_ID, 1, expires_at_ms, b'{"a": "\0"}', "é".encode())


def count(database: Database) -> int:
    query = select(func.count()).select_from(tables.transcripts)
    return database.read(lambda connection: connection.scalar(query)) or 0


def test_until_its_time_is_over(database: Database) -> None:
    kept, old = made("kept", now_ms() + 60_000), made("old", now_ms() - 1)
    for transcript in (kept, old, kept):
        transcripts.keep(database, transcript)
    assert transcripts.find(database, "kept") == transcripts.find(database, "kept", DEFAULT_ID)
    assert transcripts.find(database, "kept") == kept
    with pytest.raises(StoreNotFoundError, match="no transcript of request 'kept'"):
        transcripts.find(database, "kept", organisations.create(database, "acme").id)
    assert count(database) == 1, "the next one that is kept deletes what has expired"
    transcripts.keep(database, old)
    with pytest.raises(StoreNotFoundError):
        transcripts.find(database, "old")
    transcripts.delete_expired(database)
    assert count(database) == 1
