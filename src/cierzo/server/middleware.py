"""Around every request: an id in the headers that clients read, a count, who may ask."""

from __future__ import annotations

import logging
import re
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cierzo.ids import new_id
from cierzo.server.error_responses import error_response, response_for
from cierzo.server.metering import Metered
from cierzo.server.metrics import Metrics
from cierzo.server.request_log import log_request

logger = logging.getLogger(__name__)

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

LOOPBACK_ORIGIN = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


class RequestIdMiddleware:
    """Puts `request_id` into the request's state and both headers onto its answer.

    Answers for what nobody below caught, so that a failure, too, can be found by its id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = new_id()
        scope.setdefault("state", {})["request_id"] = request_id

        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                headers = MutableHeaders(scope=message)
                headers["mistral-correlation-id"] = request_id
                headers["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            fields = {"request_id": request_id}
            logger.exception("request %s failed", request_id, extra={"fields": fields})
            if (
                not has_started
            ):  # else the connection is closed, which no client mistakes for an end
                await response_for(error)(scope, receive, send_with_id)


class MeteringMiddleware:
    """Ends what `admit` began, however the request ends, and adds its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope["state"]

        async def send_with_limits(message: Message) -> None:
            metered: Metered | None = state.get("metered")
            if metered is not None and message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(dict(metered.headers()))
                if message["status"] >= 500:
                    metered.fail()
            await send(message)

        try:
            await self.app(scope, receive, send_with_limits)
        except Exception:
            if "metered" in state:
                state["metered"].fail()
            raise
        finally:
            if "metered" in state:
                state["metered"].close()


class MetricsMiddleware:
    """Counts answers by method, route and status, and logs them. Paths that match no route share
    one label."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_s = time.monotonic()
        status = 499  # what is left when nobody waited for the answer

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            metrics: Metrics = scope["app"].state.metrics
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in METHODS else "other"
            metrics.http_requests.labels(method, route, status).inc()
            log_request(scope, route, status, time.monotonic() - started_s)


class OriginMiddleware:
    """Refuses web pages that do not come from this machine.

    A browser lets any page send requests to loopback, and without keys nothing else would
    keep a foreign page from using the models. Programs that are no browser send no Origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        if origin is None or re.fullmatch(LOOPBACK_ORIGIN, origin):
            await self.app(scope, receive, send)
            return
        refusal = error_response(
            403,
            f"web pages from {origin} may not use this server; pages served from localhost may",
            type="origin_not_allowed",
        )
        await refusal(scope, receive, send)
