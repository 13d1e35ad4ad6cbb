"""The application put together: routes (`route_table.py`), middleware, error handlers, lifespan.

`build_app` is given models that are ready to run; it neither loads nor configures them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from cierzo.classifiers.definition import ClassifierFolder
from cierzo.errors import CierzoError
from cierzo.server.auth import Authenticator
from cierzo.server.classifiers import ServedClassifiers
from cierzo.server.config import ServerConfig
from cierzo.server.error_responses import FieldErrors, on_error, on_http_exception
from cierzo.server.health_probe import HealthProbe
from cierzo.server.limiter import BUDGET_WARNING_HEADER, LIMIT_HEADERS
from cierzo.server.metering import QUERY_COST_HEADER, Metering
from cierzo.server.metrics import Metrics
from cierzo.server.middleware import (
    LOOPBACK_ORIGIN,
    MeteringMiddleware,
    MetricsMiddleware,
    OriginMiddleware,
    RequestIdMiddleware,
)
from cierzo.server.openapi import describe
from cierzo.server.request_body import IGNORED_FIELDS_HEADER
from cierzo.server.route import Endpoint, Route
from cierzo.server.route_table import ROUTES
from cierzo.server.schemas.common import ErrorBody
from cierzo.server.served_model import ServedModel, ServedModels
from cierzo.server.token_model import TokenModel
from cierzo.server.transcripts import TranscriptMiddleware
from cierzo.store import Database
from cierzo.store.files import FileStore

Background = Callable[[FastAPI], Coroutine[Any, Any, None]]

MIDDLEWARE = (
    Middleware(MetricsMiddleware),
    Middleware(RequestIdMiddleware),
    Middleware(OriginMiddleware),
    Middleware(TranscriptMiddleware),
    Middleware(MeteringMiddleware),
    Middleware(
        CORSMiddleware,
        allow_origin_regex=LOOPBACK_ORIGIN,
        allow_methods=("GET", "POST", "PATCH", "DELETE"),
        allow_headers=("*",),
        expose_headers=(
            "x-request-id",
            "retry-after",
            IGNORED_FIELDS_HEADER,
            BUDGET_WARNING_HEADER,
            QUERY_COST_HEADER,
            *LIMIT_HEADERS,
        ),
    ),
)
"""Outermost first."""


def build_app(
    models: Sequence[ServedModel],
    database: Database,
    file_store: FileStore,
    config: ServerConfig | None = None,
    classifiers: ClassifierFolder | None = None,
    background: Background | None = None,
) -> FastAPI:
    """An ASGI app that serves `models`, with `background` running beside it.

    Closes the models when it shuts down, but not the database.
    """
    config = config or ServerConfig()
    served = ServedModels(models)
    app = _App(
        title="Cierzo",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirected POST loses its body in the SDKs
        lifespan=_lifespan,
        middleware=MIDDLEWARE,
        exception_handlers={
            HTTPException: on_http_exception,
            CierzoError: on_error,
            FieldErrors: on_error,
            ClientDisconnect: _on_disconnect,
        },
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.models = served
    app.state.classifiers = ServedClassifiers(served, classifiers)
    app.state.config = config
    engines = {
        model.id: model.engine
        for model in models
        if isinstance(model, TokenModel) and model.upstream is None
    }
    app.state.metrics = Metrics(engines, served.upstream_statistics)
    app.state.database = database
    app.state.files = file_store
    app.state.auth = Authenticator(database)
    app.state.metering = Metering(database, served, config.max_open_per_workspace)
    app.state.jobs_changed = asyncio.Event()
    app.state.background = background
    app.state.health_probes = {name: HealthProbe(engine) for name, engine in engines.items()}
    for route in ROUTES:
        _add_route(app, route)
    return app


class _App(FastAPI):
    """Its document is made from the route table: endpoints read their own bodies."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = describe(self, ROUTES)
        return self.openapi_schema


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    background: Background | None = app.state.background
    task = None if background is None else asyncio.ensure_future(background(app))
    yield
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await app.state.models.close()
    await app.state.metering.close()


def _add_route(app: FastAPI, route: Route) -> None:
    """FastAPI's part is OpenAPI; bodies are read by the endpoints (`request_body.py`)."""
    endpoint = _guarded(route)
    app.add_api_route(
        route.path,
        endpoint,
        methods=[route.method],
        responses={
            "200": {"model": route.answer} if route.answer else {},
            **{str(status): {"model": body} for status, body in route.failures.items()},
            "default": {"model": ErrorBody},
        },
        response_class=Response,
        response_model=None,
    )
    if route.method == "GET":
        app.add_route(route.path, endpoint, methods=["HEAD"], include_in_schema=False)


def _guarded(route: Route) -> Endpoint:
    """The endpoint behind its key: before anything of the request is read, who asks is known."""
    if route.scope == "open":
        return route.endpoint

    @wraps(route.endpoint)
    async def guarded(request: Request) -> Response:
        auth: Authenticator = request.app.state.auth
        request.state.caller = await auth.caller(request, route.scope)
        return await route.endpoint(request)

    return guarded


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """Nobody is there to read it; the status is for the log."""
    return Response(status_code=499)
