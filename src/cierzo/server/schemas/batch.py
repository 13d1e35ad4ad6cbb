"""The wire of `/v1/batch/jobs`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from cierzo.server.schemas.common import Items, WireModel

MAX_INLINE = 10_000

Endpoint = Literal[
    "/v1/chat/completions",
    "/v1/fim/completions",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/chat/moderations",
    "/v1/classifications",
    "/v1/chat/classifications",
]

Label = Annotated[str, Field(min_length=1, max_length=32)]
LabelValue = Annotated[str, Field(max_length=512)]


class BatchRequest(WireModel):
    """One inline request."""

    custom_id: str | None = Field(default=None, max_length=512)
    body: dict[str, Any]


class CreateBatchJobRequest(WireModel):
    """The body of `POST /v1/batch/jobs`: `input_files` or `requests`."""

    endpoint: Endpoint
    input_files: Annotated[list[str], Field(min_length=1, max_length=100)] | None = None
    requests: Annotated[Items[BatchRequest], Field(min_length=1, max_length=MAX_INLINE)] | None = (
        None
    )
    model: Annotated[str, Field(max_length=400)] | None = None
    agent_id: str | None = None
    metadata: dict[Label, LabelValue] | None = None
    timeout_hours: int = Field(default=24, ge=1, le=168)


class BatchError(BaseModel):
    message: str
    count: int = 1


class BatchJobBody(BaseModel):
    """One job. `outputs` are the results, where they were asked for and it is over."""

    id: str
    object: Literal["batch"] = "batch"
    input_files: list[str]
    endpoint: str
    model: str | None
    agent_id: str | None = None
    metadata: dict[str, str] | None
    errors: list[BatchError]
    status: str
    created_at: int
    started_at: int | None
    completed_at: int | None
    total_requests: int
    completed_requests: int
    succeeded_requests: int
    failed_requests: int
    output_file: str | None
    error_file: str | None
    outputs: list[dict[str, Any]] | None = None


class BatchJobList(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchJobBody]
    total: int


class DeletedBatchJob(BaseModel):
    id: str
    object: Literal["batch"] = "batch"
    deleted: Literal[True] = True
