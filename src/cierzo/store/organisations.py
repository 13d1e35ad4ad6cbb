"""Organisations: who owns workspaces, and whose admin keys see no other's.

The default one runs the server: its admin keys administer all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from cierzo.errors import StoreError, StoreNotFoundError
from cierzo.ids import new_id, now_ms
from cierzo.store import update
from cierzo.store.db import Database
from cierzo.store.insert import insert_new
from cierzo.store.limits import Limits
from cierzo.store.names import checked_part
from cierzo.store.tables import DEFAULT_ID, organisations

_columns = organisations.c


@dataclass(frozen=True, slots=True)
class Organisation:
    """One row."""

    id: str
    name: str
    created_at_ms: int
    archived_at_ms: int | None
    limits: Limits


def create(database: Database, name: str, limits: Limits | None = None) -> Organisation:
    """A new organisation, without workspaces. Raises StoreError when the name is taken or none."""
    row = {
        "id": new_id(),
        "name": checked_part(name),
        "created_at_ms": now_ms(),
        **(limits or Limits()).columns(),
    }

    def insert(connection: Connection) -> Row[Any] | None:
        insert_new(connection, organisations, [row])
        return connection.execute(select(organisations).where(_columns.id == row["id"])).first()

    made = database.write(insert)
    if made is None:
        raise StoreError(f"there is an organisation called {name!r} already; choose another name")
    return _organisation(made)


def list_all(database: Database) -> list[Organisation]:
    """Every organisation, oldest first; the archived ones too."""
    query = select(organisations).order_by(_columns.created_at_ms, _columns.id)
    rows = database.read(lambda connection: connection.execute(query).all())
    return [_organisation(row) for row in rows]


def find(database: Database, name_or_id: str) -> Organisation:
    """Raises StoreNotFoundError, which lists what there is."""
    there = list_all(database)
    for one in there:
        if name_or_id in (one.id, one.name):
            return one
    names = ", ".join(one.name for one in there)
    raise StoreNotFoundError(f"no organisation {name_or_id!r}; there are {names}")


def set_limits(database: Database, organisation_id: str, limits: Limits) -> None:
    """Replace all of its limits, which hold for all of its workspaces together."""
    update.set_limits(database, organisations, organisation_id, limits)


def archive(database: Database, organisation_id: str) -> None:
    """End its use: its keys are refused from now on, its records stay."""
    if organisation_id == DEFAULT_ID:
        raise StoreError("the default organisation cannot be archived: it runs the server")
    update.end(database, _columns.archived_at_ms, organisation_id)


def _organisation(row: Row[Any]) -> Organisation:
    return Organisation(
        id=row.id,
        name=row.name,
        created_at_ms=row.created_at_ms,
        archived_at_ms=row.archived_at_ms,
        limits=Limits.of(row),
    )
