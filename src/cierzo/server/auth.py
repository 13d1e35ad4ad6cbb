"""Who asks: the API key in a request's header → a `Caller`, and what that caller may do.

A server without any key is open and belongs to the default workspace. Knows nothing of limits.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from starlette.requests import Request

from cierzo.errors import ForbiddenError, UnauthorizedError
from cierzo.store import Database, api_keys
from cierzo.store.api_keys import ApiKey
from cierzo.store.tables import DEFAULT_ID

Scope = Literal[
    "open",
    "any",
    "chat",
    "fim",
    "embeddings",
    "classifiers",
    "files",
    "batch",
    "metrics",
    "admin",
    "server",
]
"""Of a route: `open` asks for no key, `any` for a good one, `admin` for an admin key, `server`
(and, where there are keys, `metrics`) for one of the organisation that runs the server; the others
are what a key may be confined to (`api_keys.ENDPOINTS`)."""

MEMORY_S = 1.0
"""How long a key that was good is taken for good: the most that a revocation is late."""

MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is. `key` is None where the server has no keys."""

    workspace_id: str
    key: ApiKey | None

    def check(self, scope: Scope) -> None:
        """Raises ForbiddenError unless this caller may use routes of that scope."""
        key = self.key
        if scope in ("admin", "server") and (key is None or not key.is_admin):
            raise ForbiddenError(
                "this needs an admin key; `cierzo keys create NAME --admin` makes one"
            )
        if key is None:
            return
        if scope in ("metrics", "server") and not key.is_server_admin:
            raise ForbiddenError(
                "this concerns every organisation, so it needs an admin key of the default one"
            )
        is_endpoint = scope in api_keys.ENDPOINTS
        if is_endpoint and key.endpoints is not None and scope not in key.endpoints:
            raise ForbiddenError(
                f"the key {key.name!r} may not use {scope}, only {', '.join(key.endpoints)}"
            )

    @property
    def administered_id(self) -> str | None:
        """The organisation that this admin key administers; None: every one."""
        assert self.key is not None
        return None if self.key.is_server_admin else self.key.organisation_id

    def may_use(self, model_id: str) -> bool:
        return self.key is None or self.key.models is None or model_id in self.key.models

    def check_model(self, model_id: str) -> None:
        """Raises ForbiddenError for a model that the key is not made for, there or not."""
        if not self.may_use(model_id):
            assert self.key is not None and self.key.models is not None
            raise ForbiddenError(
                f"the key {self.key.name!r} may not use this model,"
                f" only {', '.join(self.key.models)}"
            )


class Authenticator:
    """Looks keys up, and remembers the good ones for a moment."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._good: dict[bytes, tuple[float, ApiKey]] = {}
        self._open_until_s = 0.0
        self._is_closed = False

    async def caller(self, request: Request, scope: Scope) -> Caller:
        """Raises UnauthorizedError, ForbiddenError, StoreUnavailableError."""
        caller = await self._caller(request.headers.get("authorization", ""))
        caller.check(scope)
        return caller

    def forget(self) -> None:
        """Look every key up again: one was revoked, or its limits changed."""
        self._good.clear()

    async def _caller(self, header: str) -> Caller:
        if await self._is_open():
            return Caller(DEFAULT_ID, None)
        scheme, _, spelling = header.partition(" ")
        key = await self._find(spelling.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise UnauthorizedError("Unauthorized")
        return Caller(key.workspace_id, key)

    async def _is_open(self) -> bool:
        """True while no key was ever made; that, too, is remembered for a moment."""
        if not self._is_closed and time.monotonic() >= self._open_until_s:
            now_s = time.monotonic()
            self._is_closed = await self._database.in_thread(api_keys.any_exists, self._database)
            self._open_until_s = now_s + MEMORY_S
        return not self._is_closed

    async def _find(self, spelling: str) -> ApiKey | None:
        digest = sha256(spelling.encode(errors="surrogateescape")).digest()
        now_s = time.monotonic()
        until_s, key = self._good.get(digest, (0.0, None))
        if now_s < until_s:
            return key
        self._good.pop(digest, None)
        key = await self._database.in_thread(api_keys.authenticate, self._database, spelling)
        if key is not None:
            if len(self._good) >= MAX_REMEMBERED:
                self._good.clear()
            self._good[digest] = now_s + MEMORY_S, key
        return key
