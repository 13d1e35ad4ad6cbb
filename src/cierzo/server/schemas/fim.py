"""The wire of `POST /v1/fim/completions`. The answers have chat's shapes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from cierzo.server.schemas.common import StopStrings, WireModel


class FimCompletionRequest(WireModel):
    """Code before the cursor (`prompt`) and after it (`suffix`). A null field is an absent one."""

    model: str
    prompt: str
    suffix: str | None = None
    temperature: float | None = Field(default=None, ge=0.0, le=1.5)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    max_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    min_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    stream: bool | None = False
    stop: StopStrings | None = None
    random_seed: int | None = Field(default=None, ge=0, lt=2**63)
    metadata: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
