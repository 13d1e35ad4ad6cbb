"""Workspaces: who pays together, and who never sees another's keys, files or cached prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, case, or_, select

from cierzo.errors import StoreError, StoreNotFoundError
from cierzo.ids import new_id, now_ms
from cierzo.store import update
from cierzo.store.db import Database
from cierzo.store.insert import insert_new
from cierzo.store.limits import Limits
from cierzo.store.names import checked_part, printable
from cierzo.store.tables import DEFAULT_ID, organisations, workspaces

_columns = workspaces.c

_LONG = organisations.c.name + "/" + _columns.name

PATH = case((_columns.organisation_id == DEFAULT_ID, _columns.name), else_=_LONG)
"""What a workspace is called among those of all organisations: `team`, or `acme/team`."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """One row. The id also keys the engine's prefix cache; `path` is `team`, or `acme/team`."""

    id: str
    name: str
    path: str
    organisation_id: str
    created_at_ms: int
    archived_at_ms: int | None
    limits: Limits


def create(
    database: Database,
    name: str,
    limits: Limits | None = None,
    organisation_id: str = DEFAULT_ID,
) -> Workspace:
    """A new workspace. Raises StoreError when its organisation has one of that name, or it is no
    name."""
    row = {
        "id": new_id(),
        "name": checked_part(name),
        "organisation_id": organisation_id,
        "created_at_ms": now_ms(),
        **(limits or Limits()).columns(),
    }

    def insert(connection: Connection) -> Row[Any] | None:
        insert_new(connection, workspaces, [row])
        return connection.execute(_QUERY.where(_columns.id == row["id"])).first()

    made = database.write(insert)
    if made is None:
        raise StoreError(f"there is a workspace called {name!r} already; choose another name")
    return _workspace(made)


def list_all(database: Database, organisation_id: str | None = None) -> list[Workspace]:
    """Every workspace of one organisation or of all, oldest first; the archived ones too."""
    query = _of(organisation_id).order_by(_columns.created_at_ms, _columns.id)
    rows = database.read(lambda connection: connection.execute(query).all())
    return [_workspace(row) for row in rows]


def find(database: Database, name_or_id: str, organisation_id: str | None = None) -> Workspace:
    """By id, path or name, in that order, among those of one organisation, or of all.

    Raises StoreNotFoundError, which lists what there is, and StoreError for a name that several
    organisations have.
    """
    wanted = printable(name_or_id)
    query = _of(organisation_id)
    is_it = or_(_columns.id == wanted, _columns.name == wanted, _LONG == wanted)

    def work(connection: Connection) -> tuple[list[Workspace], list[str]]:
        found = [_workspace(row) for row in connection.execute(query.where(is_it))]
        names = [] if found else [row.path for row in connection.execute(query)]
        return found, names

    found, names = database.read(work)
    if not found:
        there = ", ".join(sorted(names)) or "none"
        raise StoreNotFoundError(f"no workspace {name_or_id!r}; there are {there}")
    for one in found:
        if one.id == wanted:
            return one
    if len(found) > 1:
        ids = ", ".join(f"{one.id} ({one.path})" for one in found)
        raise StoreError(f"several workspaces are called {name_or_id!r}; name one by its id: {ids}")
    return found[0]


def set_limits(database: Database, workspace_id: str, limits: Limits) -> None:
    """Replace all of its limits."""
    update.set_limits(database, workspaces, workspace_id, limits)


def archive(database: Database, workspace_id: str) -> None:
    """End its use: its keys are refused from now on, its records stay."""
    if workspace_id == DEFAULT_ID:
        raise StoreError("the default workspace cannot be archived: requests without a key are its")
    update.end(database, _columns.archived_at_ms, workspace_id)


_QUERY = select(workspaces, PATH.label("path")).join(
    organisations, organisations.c.id == _columns.organisation_id
)


def _of(organisation_id: str | None) -> Select[Any]:
    if organisation_id is None:
        return _QUERY
    return _QUERY.where(_columns.organisation_id == organisation_id)


def _workspace(row: Row[Any]) -> Workspace:
    return Workspace(
        id=row.id,
        name=row.name,
        path=row.path,
        organisation_id=row.organisation_id,
        created_at_ms=row.created_at_ms,
        archived_at_ms=row.archived_at_ms,
        limits=Limits.of(row),
    )
