"""The wire of `POST /v1/embeddings`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from cierzo.server.schemas.common import Items, UsageInfo, WireModel

MAX_INPUTS = 4096

TokenIds = Annotated[Items[int], Field(min_length=1)]
"""A text as OpenAI's clients may send it: already tokenized, by this model's vocabulary."""


class EmbeddingRequest(WireModel):
    """The body of `POST /v1/embeddings`. A null field is an absent one.

    `dimensions`, `user` and token ids are OpenAI's.
    """

    model: str
    input: (
        str
        | TokenIds
        | Annotated[Items[str], Field(min_length=1, max_length=MAX_INPUTS)]
        | Annotated[Items[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    metadata: dict[str, Any] | None = None
    output_dimension: int | None = Field(default=None, ge=1)
    output_dtype: Literal["float", "int8", "uint8", "binary", "ubinary"] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = None


class EmbeddingData(BaseModel):
    """One text's vector: numbers, or base64 of them in little-endian order."""

    object: Literal["embedding"] = "embedding"
    embedding: list[float] | list[int] | str
    index: int


class EmbeddingResponse(BaseModel):
    id: str
    object: Literal["list"] = "list"
    model: str
    data: list[EmbeddingData]
    usage: UsageInfo
