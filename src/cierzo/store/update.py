"""Changes that organisations, workspaces and keys have in common."""

from __future__ import annotations

from sqlalchemy import Column, Table, update

from cierzo.ids import now_ms
from cierzo.store.db import Database
from cierzo.store.limits import Limits


def set_limits(database: Database, table: Table, row_id: str, limits: Limits) -> None:
    """Replace all limits of one row."""
    statement = update(table).where(table.c.id == row_id).values(limits.columns())
    database.write(lambda connection: connection.execute(statement))


def end(database: Database, ended_at_ms: Column[int], row_id: str) -> None:
    """Note the end of one row in its column for that; what has ended keeps its time."""
    table = ended_at_ms.table
    statement = update(table).where(table.c.id == row_id, ended_at_ms.is_(None))
    at_ms = now_ms()
    database.write(lambda connection: connection.execute(statement.values({ended_at_ms: at_ms})))
