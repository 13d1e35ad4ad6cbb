"""What several route modules read of a request or write into an answer."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from cierzo.server.error_responses import json_response
from cierzo.store import Database
from cierzo.store.files import FileStore


def database_of(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def file_store_of(request: Request) -> FileStore:
    store: FileStore = request.app.state.files
    return store


def answer(body: BaseModel) -> Response:
    return json_response(body.model_dump())


def unix_ms(moment: datetime) -> int:
    """Without an offset it is UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1000)
