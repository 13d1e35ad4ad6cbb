"""One line of a batch job: a request that comes from a file instead of a socket.

It goes to the endpoint that would answer it over HTTP, so whatever that endpoint can do, and
refuses, holds for lines.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from cierzo.errors import (
    CierzoError,
    EngineError,
    EngineStoppedError,
    QueueFullError,
    RequestError,
    StoreUnavailableError,
)
from cierzo.server.app import ROUTES
from cierzo.server.auth import Caller
from cierzo.server.error_responses import FieldErrors, on_http_exception, response_for
from cierzo.server.metering import Metered
from cierzo.store.ledger import UsageRecord

logger = logging.getLogger(__name__)

PASSING = (QueueFullError, EngineStoppedError, StoreUnavailableError)
"""What says nothing of the line: it is asked again."""

RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """What a line came to; `record` is its row in the ledger, where it used compute."""

    status: int
    body: Any
    record: UsageRecord | None


async def answer_line(
    app: FastAPI, caller: Caller, path: str, request_id: str, body: Mapping[str, Any]
) -> Answer:
    """The answer, once there is one that stays."""
    while True:
        try:
            return await _answer(app, caller, path, request_id, body)
        except PASSING:
            await asyncio.sleep(RETRY_S)


async def _answer(
    app: FastAPI, caller: Caller, path: str, request_id: str, body: Mapping[str, Any]
) -> Answer:
    request = _request(app, caller, path, request_id, orjson.dumps(body))
    endpoint = next(route.endpoint for route in ROUTES if route.path == path)
    try:
        response = await _respond(request, endpoint, body)
        metered: Metered | None = getattr(request.state, "metered", None)
        record = None if metered is None else metered.record
        if metered is not None and record is None and metered.has_computed:
            record = metered.take_record("failed")
        return Answer(response.status_code, orjson.loads(response.body), record)
    finally:
        if hasattr(request.state, "metered"):
            request.state.metered.close()


async def _respond(request: Request, endpoint: Any, body: Mapping[str, Any]) -> Response:
    """The endpoint's response, or that to its error. Raises what is in PASSING."""
    try:
        if body.get("stream"):
            raise RequestError("a line of a batch is answered whole; leave stream out")
        response: Response = await endpoint(request)
        return response
    except PASSING:
        raise
    except HTTPException as error:
        return await on_http_exception(request, error)
    except (CierzoError, FieldErrors) as error:
        engines = [model.engine for model in request.app.state.models]
        if isinstance(error, EngineError) and not all(engine.is_healthy() for engine in engines):
            raise EngineStoppedError("the engine stops; a later start goes on") from error
        return response_for(error)
    except Exception as error:
        logger.exception("batch line %s failed", request.state.request_id)
        return response_for(error)


def _request(app: FastAPI, caller: Caller, path: str, request_id: str, data: bytes) -> Request:
    has_come = False

    async def receive() -> Message:
        nonlocal has_come
        if has_come:
            await asyncio.Event().wait()  # nobody is there who could leave
        has_come = True
        return {"type": "http.request", "body": data, "more_body": False}

    scope = {
        "type": "http",
        "app": app,
        "route": SimpleNamespace(path=path),
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "state": {"caller": caller, "request_id": request_id, "is_batch": True},
    }
    return Request(scope, receive)
