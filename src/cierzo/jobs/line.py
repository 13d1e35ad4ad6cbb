"""One line of a batch job: a request that comes from a file instead of a socket.

It goes to the endpoint that would answer it over HTTP, so whatever that endpoint can do, and
refuses, holds for lines.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    UpstreamAwayError,
    UpstreamBusyError,
)
from cierzo.server.auth import Caller
from cierzo.server.error_responses import FieldErrors, on_http_exception, response_for
from cierzo.server.route_table import ROUTES
from cierzo.store.ledger import UsageRecord

logger = logging.getLogger(__name__)

PASSING = (QueueFullError, EngineStoppedError, StoreUnavailableError, UpstreamAwayError)
"""What says nothing of the line: it is asked again."""

RETRY_S = 0.5
"""Where this machine has no room; an upstream says how long it wants to be left alone."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A line as it is put to its endpoint.

    `rows` is what its newest attempt used, whether that was answered or cancelled; they are written
    by whoever keeps the answer.
    """

    path: str
    request_id: str
    caller: Caller
    body: Mapping[str, Any]
    rows: list[UsageRecord] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a line came to."""

    status: int
    body: Any


async def answer_line(app: FastAPI, asked: Asked) -> Answer:
    """The answer, once there is one that stays."""
    while True:
        asked.rows.clear()
        try:
            return await _answer(_request(app, asked), asked)
        except (UpstreamAwayError, UpstreamBusyError) as error:
            await asyncio.sleep(error.retry_after_s)
        except PASSING:
            await asyncio.sleep(RETRY_S)


async def _answer(request: Request, asked: Asked) -> Answer:
    try:
        response = await _respond(request, asked)
        if hasattr(request.state, "metered"):
            request.state.metered.fail()  # what has no row by now was not answered
        return Answer(response.status_code, orjson.loads(response.body))
    finally:
        if hasattr(request.state, "metered"):
            request.state.metered.close()


async def _respond(request: Request, asked: Asked) -> Response:
    """The endpoint's response, or that to its error. Raises what is in PASSING."""
    endpoint = next(route.endpoint for route in ROUTES if route.path == asked.path)
    try:
        if asked.body.get("stream"):
            raise RequestError("a line of a batch is answered whole; leave stream out")
        return await endpoint(request)
    except PASSING:
        raise
    except HTTPException as error:
        return await on_http_exception(request, error)
    except (CierzoError, FieldErrors) as error:
        models = request.app.state.models
        if isinstance(error, EngineError) and not all(model.is_running() for model in models):
            raise EngineStoppedError("the engine stops; a later start goes on") from error
        return response_for(error)
    except Exception as error:
        request_id = request.state.request_id
        fields = {"request_id": request_id}
        logger.exception("batch line %s failed", request_id, extra={"fields": fields})
        return response_for(error)


def _request(app: FastAPI, asked: Asked) -> Request:
    has_come = False

    async def receive() -> Message:
        nonlocal has_come
        if has_come:
            await asyncio.Event().wait()  # nobody is there who could leave
        has_come = True
        return {"type": "http.request", "body": json.dumps(asked.body).encode(), "more_body": False}

    scope = {
        "type": "http",
        "app": app,
        "route": SimpleNamespace(path=asked.path),
        "method": "POST",
        "path": asked.path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "state": {
            "caller": asked.caller,
            "request_id": asked.request_id,
            "batch_rows": asked.rows,
        },
    }
    return Request(scope, receive)
