"""The application as a table: routes, middleware, error handlers, lifespan.

`build_app` is given models that are ready to run; it neither loads nor configures them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import cache, wraps
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
from cierzo.server.route import BYTES, EVENTS, Endpoint, Route
from cierzo.server.routes import (
    admin,
    batch,
    chat,
    classifiers,
    embeddings,
    files,
    fim,
    health,
    models,
)
from cierzo.server.schemas import admin as wire
from cierzo.server.schemas.batch import (
    BatchJobBody,
    BatchJobList,
    CreateBatchJobRequest,
    DeletedBatchJob,
)
from cierzo.server.schemas.chat import ChatCompletionRequest, ChatCompletionResponse
from cierzo.server.schemas.classifiers import (
    ChatClassificationRequest,
    ChatModerationRequest,
    ClassificationRequest,
    ClassificationResponse,
    ModerationRequest,
    ModerationResponse,
)
from cierzo.server.schemas.common import ErrorBody, GuardrailRefusal
from cierzo.server.schemas.embeddings import EmbeddingRequest, EmbeddingResponse
from cierzo.server.schemas.files import (
    DeletedFile,
    FileBody,
    FileList,
    FileUpload,
    RetrievedFile,
    SignedUrl,
)
from cierzo.server.schemas.fim import FimCompletionRequest
from cierzo.server.schemas.health import Health
from cierzo.server.schemas.models import ModelCard, ModelList
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


_KEYS, _WORKSPACES = "/v1/admin/api-keys", "/v1/admin/workspaces"
_ORGANISATIONS = "/v1/admin/organisations"
_FILES = "/v1/files"
_JOBS = "/v1/batch/jobs"

ADMIN_ROUTES: tuple[Route, ...] = (
    Route("GET", _KEYS, admin.list_keys, "admin", answer=wire.KeyList, query=admin.KEYS_QUERY),
    Route("POST", _KEYS, admin.create_key, "admin", wire.CreateKeyRequest, wire.KeyBody),
    Route(
        "PATCH",
        _KEYS + "/{key_id}",
        admin.update_key,
        "admin",
        wire.UpdateLimitsRequest,
        wire.KeyBody,
    ),
    Route("DELETE", _KEYS + "/{key_id}", admin.revoke_key, "admin", answer=wire.KeyBody),
    Route("GET", _WORKSPACES, admin.list_workspaces, "admin", answer=wire.WorkspaceList),
    Route(
        "POST",
        _WORKSPACES,
        admin.create_workspace,
        "admin",
        wire.CreateWorkspaceRequest,
        wire.WorkspaceBody,
    ),
    Route(
        "PATCH",
        _WORKSPACES + "/{workspace_id}",
        admin.update_workspace,
        "admin",
        wire.UpdateLimitsRequest,
        wire.WorkspaceBody,
    ),
    Route(
        "DELETE",
        _WORKSPACES + "/{workspace_id}",
        admin.archive_workspace,
        "admin",
        answer=wire.WorkspaceBody,
    ),
    Route("GET", _ORGANISATIONS, admin.list_organisations, "admin", answer=wire.OrganisationList),
    Route(
        "POST",
        _ORGANISATIONS,
        admin.create_organisation,
        "server",
        wire.CreateOrganisationRequest,
        wire.OrganisationBody,
    ),
    Route(
        "PATCH",
        _ORGANISATIONS + "/{organisation_id}",
        admin.update_organisation,
        "server",
        wire.UpdateLimitsRequest,
        wire.OrganisationBody,
    ),
    Route(
        "DELETE",
        _ORGANISATIONS + "/{organisation_id}",
        admin.archive_organisation,
        "server",
        answer=wire.OrganisationBody,
    ),
    Route("GET", "/v1/admin/prices", admin.list_prices, "server", answer=wire.PriceList),
    Route(
        "POST", "/v1/admin/prices", admin.set_price, "server", wire.SetPriceRequest, wire.PriceList
    ),
    Route(
        "GET",
        "/v1/admin/transcripts/{request_id}",
        admin.retrieve_transcript,
        "admin",
        answer=wire.TranscriptBody,
    ),
    Route(
        "GET",
        "/v1/admin/usage",
        admin.report_usage,
        "admin",
        answer=wire.UsageReport,
        query=admin.USAGE_QUERY,
    ),
)

ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/v1/chat/completions",
        chat.create_chat_completion,
        "chat",
        ChatCompletionRequest,
        ChatCompletionResponse,
        also=(EVENTS,),
        failures={403: GuardrailRefusal | ErrorBody},
    ),
    Route(
        "POST",
        "/v1/fim/completions",
        fim.create_fim_completion,
        "fim",
        FimCompletionRequest,
        ChatCompletionResponse,
        also=(EVENTS,),
    ),
    Route(
        "POST",
        "/v1/embeddings",
        embeddings.create_embeddings,
        "embeddings",
        EmbeddingRequest,
        EmbeddingResponse,
    ),
    Route(
        "POST",
        "/v1/moderations",
        classifiers.create_moderation,
        "classifiers",
        ModerationRequest,
        ModerationResponse,
    ),
    Route(
        "POST",
        "/v1/chat/moderations",
        classifiers.create_chat_moderation,
        "classifiers",
        ChatModerationRequest,
        ModerationResponse,
    ),
    Route(
        "POST",
        "/v1/classifications",
        classifiers.create_classification,
        "classifiers",
        ClassificationRequest,
        ClassificationResponse,
    ),
    Route(
        "POST",
        "/v1/chat/classifications",
        classifiers.create_chat_classification,
        "classifiers",
        ChatClassificationRequest,
        ClassificationResponse,
    ),
    Route(
        "POST",
        _FILES,
        files.upload_file,
        "files",
        FileUpload,
        FileBody,
        media_type="multipart/form-data",
    ),
    Route("GET", _FILES, files.list_files, "files", answer=FileList, query=files.LIST_QUERY),
    Route("GET", _FILES + "/{file_id}", files.retrieve_file, "files", answer=RetrievedFile),
    Route("DELETE", _FILES + "/{file_id}", files.delete_file, "files", answer=DeletedFile),
    Route("GET", _FILES + "/{file_id}/content", files.download_file, "files", also=(BYTES,)),
    Route(
        "GET",
        _FILES + "/{file_id}/url",
        files.sign_url,
        "files",
        answer=SignedUrl,
        query=files.LINK_QUERY,
    ),
    Route(
        "GET",
        _FILES + "/{file_id}/signed",
        files.download_signed,
        "open",
        query=files.SIGNED_QUERY,
        also=(BYTES,),
    ),
    Route("POST", _JOBS, batch.create_batch_job, "batch", CreateBatchJobRequest, BatchJobBody),
    Route(
        "GET", _JOBS, batch.list_batch_jobs, "batch", answer=BatchJobList, query=batch.LIST_QUERY
    ),
    Route(
        "GET",
        _JOBS + "/{job_id}",
        batch.retrieve_batch_job,
        "batch",
        answer=BatchJobBody,
        query=batch.JOB_QUERY,
    ),
    Route("DELETE", _JOBS + "/{job_id}", batch.delete_batch_job, "batch", answer=DeletedBatchJob),
    Route("POST", _JOBS + "/{job_id}/cancel", batch.cancel_batch_job, "batch", answer=BatchJobBody),
    Route(
        "GET",
        "/v1/models",
        models.list_models,
        "any",
        answer=ModelList,
        query=models.LIST_QUERY,
    ),
    Route("GET", "/v1/models/{model_id:path}", models.retrieve_model, "any", answer=ModelCard),
    *ADMIN_ROUTES,
    Route("GET", "/health", health.health, "open", answer=Health, failures={503: Health}),
    Route("GET", "/metrics", health.metrics, "metrics", also=("text/plain",)),
)


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
    app = FastAPI(
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
    app.state.metrics = Metrics(engines)
    app.state.database = database
    app.state.files = file_store
    app.state.auth = Authenticator(database)
    app.state.metering = Metering(database, served, config.max_open_per_workspace)
    app.state.jobs_changed = asyncio.Event()
    app.state.background = background
    app.state.health_probes = {name: HealthProbe(engine) for name, engine in engines.items()}
    for route in ROUTES:
        _add_route(app, route)
    app.openapi = cache(lambda: describe(app, ROUTES))  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    background: Background | None = app.state.background
    task = None if background is None else asyncio.ensure_future(background(app))
    yield
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for model in app.state.models:
        await model.close()
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
