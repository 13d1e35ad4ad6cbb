"""One line of the route table: what is served where, to whom, and what OpenAPI says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from cierzo.server.auth import Scope

Endpoint = Callable[[Request], Awaitable[Response]]

JSON = "application/json"
EVENTS = "text/event-stream"
BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Route:
    """`scope` says whose keys may use it. The rest is what OpenAPI shows: `body`, of `media_type`,
    `query` by name (`query.py`), the JSON `answer`, the media types that it answers with beside
    JSON (`also`), and the bodies by status that are no `ErrorBody` (`failures`)."""

    method: str
    path: str
    endpoint: Endpoint
    scope: Scope
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    media_type: str = JSON
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    failures: Mapping[int, Any] = field(default_factory=dict)

    @property
    def open_path(self) -> str:
        """The path as OpenAPI spells it."""
        return self.path.replace(":path}", "}")
