"""Workspaces: who pays together, and who never sees another's keys, files or cached prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, or_, select, update

from cierzo.errors import StoreError, StoreNotFoundError
from cierzo.ids import new_id, now_ms
from cierzo.store.db import Database
from cierzo.store.insert import insert_new
from cierzo.store.limits import Limits
from cierzo.store.names import checked_name, printable
from cierzo.store.tables import DEFAULT_ID, workspaces


@dataclass(frozen=True, slots=True)
class Workspace:
    """One row. The id also keys the engine's prefix cache."""

    id: str
    name: str
    organisation_id: str
    created_at_ms: int
    archived_at_ms: int | None
    limits: Limits


def create(database: Database, name: str, limits: Limits | None = None) -> Workspace:
    """A new workspace. Raises StoreError when the name is taken or no name."""
    row = {
        "id": new_id(),
        "name": checked_name(name),
        "organisation_id": DEFAULT_ID,
        "created_at_ms": now_ms(),
        **(limits or Limits()).columns(),
    }

    def insert(connection: Connection) -> Workspace:
        insert_new(connection, workspaces, [row])
        return _find(connection, name)

    workspace = database.write(insert)
    if workspace.id != row["id"]:
        raise StoreError(f"there is a workspace called {name!r} already; choose another name")
    return workspace


def list_all(database: Database) -> list[Workspace]:
    """Every workspace, oldest first; the archived ones too."""
    query = select(workspaces).order_by(workspaces.c.created_at_ms, workspaces.c.id)
    rows = database.read(lambda connection: connection.execute(query).all())
    return [_workspace(row) for row in rows]


def find(database: Database, name_or_id: str) -> Workspace:
    """Raises StoreNotFoundError, which lists what there is."""
    return database.read(lambda connection: _find(connection, name_or_id))


def set_limits(database: Database, workspace_id: str, limits: Limits) -> None:
    """Replace all of its limits."""
    statement = update(workspaces).where(workspaces.c.id == workspace_id)
    database.write(lambda connection: connection.execute(statement.values(limits.columns())))


def archive(database: Database, workspace_id: str) -> None:
    """End its use: its keys are refused from now on, its records stay."""
    if workspace_id == DEFAULT_ID:
        raise StoreError("the default workspace cannot be archived: requests without a key are its")
    live = update(workspaces).where(
        workspaces.c.id == workspace_id, workspaces.c.archived_at_ms.is_(None)
    )
    at_ms = now_ms()
    database.write(lambda connection: connection.execute(live.values(archived_at_ms=at_ms)))


def _find(connection: Connection, name_or_id: str) -> Workspace:
    columns = workspaces.c
    name_or_id = printable(name_or_id)
    wanted = or_(columns.id == name_or_id, columns.name == name_or_id)
    row = connection.execute(select(workspaces).where(wanted)).first()
    if row is None:
        names = connection.scalars(select(columns.name).order_by(columns.name)).all()
        raise StoreNotFoundError(f"no workspace {name_or_id!r}; there are {', '.join(names)}")
    return _workspace(row)


def _workspace(row: Row[Any]) -> Workspace:
    return Workspace(
        id=row.id,
        name=row.name,
        organisation_id=row.organisation_id,
        created_at_ms=row.created_at_ms,
        archived_at_ms=row.archived_at_ms,
        limits=Limits.of(row),
    )
