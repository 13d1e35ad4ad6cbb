"""The wire of `/v1/files`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from cierzo.server.schemas.common import WireModel

MAX_HOURS = 24 * 366


class FileUpload(WireModel):
    """The form of `POST /v1/files` (multipart/form-data)."""

    file: str = Field(json_schema_extra={"format": "binary"})
    purpose: str | None = Field(default=None, pattern="^[a-z][a-z0-9_-]{0,63}$")
    expiry: int | None = Field(default=None, ge=1, le=MAX_HOURS)
    visibility: Literal["workspace"] | None = None


class FileBody(BaseModel):
    """One file. `status` is for OpenAI's clients: what is listed is whole."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    sample_type: str
    source: str
    num_lines: int | None = None
    mimetype: str | None = None
    signature: str | None = None
    expires_at: int | None = None
    visibility: str | None = None
    status: Literal["processed"] = "processed"


class RetrievedFile(FileBody):
    deleted: Literal[False] = False


class FileList(BaseModel):
    """A page. `has_more` is for OpenAI's clients."""

    object: Literal["list"] = "list"
    data: list[FileBody]
    total: int | None = None
    has_more: bool


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class SignedUrl(BaseModel):
    """A link that needs no key until it expires."""

    url: str
