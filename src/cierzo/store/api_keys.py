"""API keys: `cierzo_<id>_<secret>`, shown once; the store keeps the secret's SHA-256 only.

The secret has 238 random bits, so a fast hash is as safe as a slow one, and every request
can afford it.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row, Select, func, or_, select

from cierzo.errors import StoreError, StoreNotFoundError
from cierzo.ids import now_ms
from cierzo.store import update
from cierzo.store.db import Database
from cierzo.store.insert import insert_new
from cierzo.store.limits import Limits
from cierzo.store.names import checked_name, printable
from cierzo.store.tables import DEFAULT_ID, api_keys, organisations, workspaces
from cierzo.store.workspaces import PATH

ENDPOINTS = ("chat", "fim", "embeddings", "classifiers", "files", "batch")
"""What a key may be confined to. The administration is for admin keys only."""

_LETTERS = string.ascii_letters + string.digits
_SPELLING = re.compile(r"cierzo_([A-Za-z0-9]{12})_([A-Za-z0-9]{40})")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One row without its secret. `workspace` is its path (`workspaces.PATH`).

    `endpoints` and `models` are what it is confined to, None: all. An admin key administers its
    organisation; one of the default organisation, the whole server.
    """

    id: str
    workspace_id: str
    workspace: str
    organisation_id: str
    organisation: str
    name: str
    is_admin: bool
    endpoints: tuple[str, ...] | None
    models: tuple[str, ...] | None
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None
    limits: Limits
    workspace_limits: Limits
    organisation_limits: Limits
    archived_at_ms: int | None

    def is_live(self, at_ms: int) -> bool:
        """False once revoked, expired, or of an archived workspace or organisation."""
        has_time = self.expires_at_ms is None or at_ms < self.expires_at_ms
        return has_time and self.revoked_at_ms is None and self.archived_at_ms is None

    @property
    def is_server_admin(self) -> bool:
        return self.is_admin and self.organisation_id == DEFAULT_ID


def create(
    database: Database,
    name: str,
    workspace_id: str,
    *,
    is_admin: bool = False,
    endpoints: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    expires_at_ms: int | None = None,
    limits: Limits | None = None,
) -> tuple[ApiKey, str]:
    """A new key, and its spelling, which nobody can tell again. Raises StoreError."""
    for endpoint in endpoints or ():
        if endpoint not in ENDPOINTS:
            raise StoreError(f"no endpoint {endpoint!r}; there are {', '.join(ENDPOINTS)}")
    key_id, secret = (_random(length) for length in (12, 40))
    row = {
        "id": key_id,
        "workspace_id": workspace_id,
        "name": checked_name(name),
        "secret_sha256": _hash(secret),
        "is_admin": is_admin,
        "endpoints": list(endpoints) if endpoints else None,
        "models": list(models) if models else None,
        "created_at_ms": now_ms(),
        "expires_at_ms": expires_at_ms,
        **(limits or Limits()).columns(),
    }

    def insert(connection: Connection) -> Row[Any] | None:
        insert_new(connection, api_keys, [row])
        return connection.execute(_QUERY.where(api_keys.c.id == key_id)).first()

    found = database.write(insert)
    if found is None:
        raise StoreError(
            f"there is a key called {name!r} in this workspace already; revoke it first, or choose"
            " another name"
        )
    return _key(found), f"cierzo_{key_id}_{secret}"


def authenticate(database: Database, spelling: str) -> ApiKey | None:
    """The key that is spelled so; None when there is none, or it is no longer good."""
    match = _SPELLING.fullmatch(spelling)
    if match is None:
        return None
    key_id, secret = match.groups()
    query = _QUERY.where(api_keys.c.id == key_id)
    row = database.read(lambda connection: connection.execute(query).first())
    expected: bytes = row.secret_sha256 if row is not None else bytes(32)
    is_right = hmac.compare_digest(expected, _hash(secret))
    if row is None or not is_right:
        return None
    key = _key(row)
    return key if key.is_live(now_ms()) else None


def any_exists(database: Database) -> bool:
    """Whether a key was ever made; a revoked one counts, or the last revocation would open all."""
    query = select(api_keys.c.id).limit(1)
    return database.read(lambda connection: connection.execute(query).first()) is not None


def list_all(
    database: Database, workspace_id: str | None = None, organisation_id: str | None = None
) -> list[ApiKey]:
    """Every key of a workspace, an organisation or of all, oldest first; the revoked ones too."""
    query = _of(organisation_id).order_by(api_keys.c.created_at_ms, api_keys.c.id)
    if workspace_id is not None:
        query = query.where(api_keys.c.workspace_id == printable(workspace_id))
    return [_key(row) for row in database.read(lambda c: c.execute(query).all())]


def get(database: Database, key_id: str, organisation_id: str | None = None) -> ApiKey:
    """The key, if it is that organisation's (None: any's). Raises StoreNotFoundError."""
    query = _of(organisation_id).where(api_keys.c.id == printable(key_id))
    row = database.read(lambda connection: connection.execute(query).first())
    if row is None:
        raise StoreNotFoundError("no key of that id")
    return _key(row)


def find(database: Database, name_or_id: str) -> ApiKey:
    """By id, or by the name of a key that is not revoked. Raises StoreNotFoundError, StoreError."""
    is_named = (api_keys.c.name == name_or_id) & api_keys.c.revoked_at_ms.is_(None)
    query = _QUERY.where(or_(api_keys.c.id == name_or_id, is_named))
    rows = database.read(lambda connection: connection.execute(query).all())
    if not rows:
        raise StoreNotFoundError(f"no key {name_or_id!r}; `cierzo keys list` shows those there are")
    if len(rows) > 1:
        ids = ", ".join(f"{row.id} of {row.workspace}" for row in rows)
        raise StoreError(f"several keys are called {name_or_id!r}; name one by its id: {ids}")
    return _key(rows[0])


def revoke(database: Database, key_id: str) -> None:
    """Refuse it from now on, for good."""
    update.end(database, api_keys.c.revoked_at_ms, key_id)


def set_limits(database: Database, key_id: str, limits: Limits) -> None:
    """Replace all of its limits."""
    update.set_limits(database, api_keys, key_id, limits)


_QUERY = (
    select(
        api_keys,
        PATH.label("workspace"),
        workspaces.c.organisation_id,
        organisations.c.name.label("organisation"),
        func.coalesce(workspaces.c.archived_at_ms, organisations.c.archived_at_ms).label(
            "archived_at_ms"
        ),
        *(workspaces.c[name].label(f"workspace_{name}") for name in Limits().columns()),
        *(organisations.c[name].label(f"organisation_{name}") for name in Limits().columns()),
    )
    .join(workspaces, workspaces.c.id == api_keys.c.workspace_id)
    .join(organisations, organisations.c.id == workspaces.c.organisation_id)
)


def _of(organisation_id: str | None) -> Select[Any]:
    if organisation_id is None:
        return _QUERY
    return _QUERY.where(workspaces.c.organisation_id == organisation_id)


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        workspace_id=row.workspace_id,
        workspace=row.workspace,
        organisation_id=row.organisation_id,
        organisation=row.organisation,
        name=row.name,
        is_admin=row.is_admin,
        endpoints=None if row.endpoints is None else tuple(row.endpoints),
        models=None if row.models is None else tuple(row.models),
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms,
        revoked_at_ms=row.revoked_at_ms,
        limits=Limits.of(row),
        workspace_limits=Limits.of(row, "workspace_"),
        organisation_limits=Limits.of(row, "organisation_"),
        archived_at_ms=row.archived_at_ms,
    )


def _random(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def _hash(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
