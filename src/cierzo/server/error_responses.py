"""Every error as an answer: one table from type to status, one JSON shape.

The keys are the live service's (`object`, `message`, `type`, `param`, `code`); a 422
carries its list of faults twice, as the live service has it and as a top-level
`detail`, which is where the SDKs look. Knows nothing of models or prompts.
"""

from __future__ import annotations

import json
from typing import Any

import orjson
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from cierzo import errors
from cierzo.server.schemas.common import Location

INVALID_REQUEST = "invalid_request_error"

# First match wins, so subclasses stand before their bases: (class, status, type, code).
ERRORS: tuple[tuple[type[Exception], int, str, str | None], ...] = (
    (errors.ModelNotFoundError, 400, "invalid_model", "1500"),
    (errors.MessageOrderError, 400, "invalid_request_message_order", "3230"),
    (errors.ToolCallError, 400, "invalid_function_call", "3280"),
    (errors.ContextOverflowError, 400, "invalid_request_prompt", "3051"),
    (errors.PromptError, 400, INVALID_REQUEST, None),
    (errors.RequestError, 400, INVALID_REQUEST, None),
    (errors.ForbiddenError, 403, "forbidden", None),
    (errors.BudgetError, 402, "budget_exceeded", None),
    (errors.RateLimitError, 429, "rate_limited", "1300"),
    (errors.QueueFullError, 429, "rate_limited", "1300"),
    (errors.EngineStoppedError, 503, "service_unavailable", None),
    (errors.UpstreamAwayError, 503, "service_unavailable", None),
    (errors.UpstreamError, 502, "upstream_failed", None),
    (errors.StoreUnavailableError, 503, "service_unavailable", None),
    (errors.StoreNotFoundError, 404, "not_found", None),
    (errors.StoreFullError, 507, "insufficient_storage", None),
    (errors.StoreError, 400, INVALID_REQUEST, None),
)

HTTP_TYPES = {
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
}

STOPPED_RETRY_AFTER_S = 10
"""What a client is told to wait when the server is going down: about one restart."""

STORE_RETRY_AFTER_S = 5
"""When the database is away."""

MAX_FAULTS = 100
MAX_INPUT_CHARS = 500


class FieldErrors(Exception):
    """A body that breaks its schema. `faults` are items of `detail`: type, loc, msg, input."""

    def __init__(self, faults: list[dict[str, Any]]) -> None:
        super().__init__(f"{len(faults)} invalid fields")
        self.faults = faults

    @classmethod
    def from_pydantic(cls, error: ValidationError) -> FieldErrors:
        faults = error.errors(include_url=False, include_context=False)[:MAX_FAULTS]
        return cls(
            [
                {**fault, "loc": ["body", *fault["loc"]], "input": _shortened(fault["input"])}
                for fault in faults
            ]
        )

    @classmethod
    def from_extra_fields(cls, extras: list[tuple[Location, Any]]) -> FieldErrors:
        return cls(
            [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", *location],
                    "msg": "Extra inputs are not permitted",
                    "input": _shortened(value),
                }
                for location, value in extras[:MAX_FAULTS]
            ]
        )


def _shortened(value: Any) -> Any:
    """A faulty value as it came; a long one as the beginning of its spelling. A megabyte of
    nonsense must not be answered by two."""
    if isinstance(value, bytes):  # a body that is no JSON
        value = value.decode(errors="replace")
    try:
        if len(orjson.dumps(value)) <= MAX_INPUT_CHARS:
            return value
    except TypeError:  # an integer of more than 64 bits
        pass
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text[:MAX_INPUT_CHARS] + "…"


def json_response(
    body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(
        orjson.dumps(body, default=str, option=orjson.OPT_SERIALIZE_NUMPY),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )


def error_response(
    status: int,
    message: str,
    *,
    type: str = INVALID_REQUEST,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """The one shape of an error answer."""
    body = {
        "object": "error",
        "message": message,
        "type": type,
        "param": param,
        "code": code,
        "raw_status_code": status,
    }
    return json_response(body, status, headers)


def field_errors_response(error: FieldErrors) -> Response:
    body = {
        "object": "error",
        "message": {"detail": error.faults},
        "type": INVALID_REQUEST,
        "param": None,
        "code": None,
        "raw_status_code": 422,
        "detail": error.faults,
    }
    return json_response(body, 422)


def _unauthorized_response() -> Response:
    """The live service's `detail`, and the keys of all our errors."""
    body = {
        "object": "error",
        "message": "Unauthorized: send a good API key in the header Authorization: Bearer KEY",
        "type": "unauthorized",
        "param": None,
        "code": None,
        "raw_status_code": 401,
        "detail": "Unauthorized",
    }
    return json_response(body, 401, {"www-authenticate": "Bearer"})


def response_for(error: Exception) -> Response:
    """The answer for `error`; anything not in the table is ours to blame: 500."""
    if isinstance(error, FieldErrors):
        return field_errors_response(error)
    if isinstance(error, errors.UnauthorizedError):
        return _unauthorized_response()
    if isinstance(error, errors.GuardrailError):  # the one shape of its own that clients know
        body = {"error": {"message": str(error), "status": 403}}
        return json_response(body | {"guardrails": {"results": error.results}}, 403)
    for kind, status, type_name, code in ERRORS:
        if isinstance(error, kind):
            return error_response(
                status,
                str(error),
                type=type_name,
                param=getattr(error, "param", None),
                code=code,
                headers=_headers_of(error),
            )
    if isinstance(error, errors.EngineError):
        return error_response(500, str(error), type="internal_error")
    return error_response(
        500,
        "the server failed on this request; the log names the cause under the request id that "
        "this answer carries in its x-request-id header",
        type="internal_error",
    )


def _headers_of(error: Exception) -> dict[str, str] | None:
    if isinstance(error, errors.QueueFullError | errors.RateLimitError | errors.UpstreamAwayError):
        wait_s = error.retry_after_s
        return None if wait_s is None else {"retry-after": str(wait_s)}
    if isinstance(error, errors.StoreUnavailableError):
        return {"retry-after": str(STORE_RETRY_AFTER_S)}
    if isinstance(error, errors.EngineStoppedError):
        return {"retry-after": str(STOPPED_RETRY_AFTER_S)}
    return None


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Routing's own errors (no such path, no such method) in our shape."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405 and request.method == "OPTIONS":
        return Response(status_code=204, headers=headers)
    message = error.detail
    if error.status_code == 404 and message == "Not Found":
        message = f"no route {request.method} {request.url.path}; /openapi.json lists those we have"
    if error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}; it takes " + headers.get(
            "Allow", "other methods"
        )
    return error_response(
        error.status_code,
        message,
        type=HTTP_TYPES.get(error.status_code, INVALID_REQUEST),
        headers=headers,
    )


async def on_error(request: Request, error: Exception) -> Response:
    """Our own errors, raised anywhere below a route."""
    return response_for(error)
