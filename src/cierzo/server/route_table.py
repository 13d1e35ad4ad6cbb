"""What is served where: every path, its endpoint and whose keys may use it."""

from __future__ import annotations

from cierzo.server.route import BYTES, EVENTS, Route
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
