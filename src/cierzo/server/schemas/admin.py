"""The wire of `/v1/admin/…`: keys, workspaces, organisations, prices, usage.

Unknown fields are always refused.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cierzo.server.schemas.common import WireModel

Name = Annotated[str, Field(min_length=1, max_length=200)]


def _within_reach(moment: datetime) -> datetime:
    """At the calendar's ends, a moment of one time zone has no date in another."""
    if not 1970 <= moment.year <= 9998:
        raise ValueError("the year must be from 1970 to 9998")
    return moment


Moment = Annotated[datetime, AfterValidator(_within_reach)]


class AdminModel(WireModel):
    """Base of the bodies here: a limit that is spelled wrong must not be none."""

    model_config = ConfigDict(extra="forbid")


class LimitsBody(AdminModel):
    """All limits of a key, a workspace or an organisation; what is left out or null is no limit."""

    budget_micros_month: int | None = Field(default=None, ge=0)
    requests_per_minute: int | None = Field(default=None, ge=0)
    tokens_per_minute: int | None = Field(default=None, ge=0)
    tokens_per_month: int | None = Field(default=None, ge=0)
    max_concurrent: int | None = Field(default=None, ge=1)


class CreateKeyRequest(AdminModel):
    """The body of `POST /v1/admin/api-keys`. Without `workspace_id`: the admin key's own."""

    name: Name
    workspace_id: str | None = None
    expiration: Moment | None = None
    is_admin: bool = False
    endpoints: list[str] | None = Field(default=None, min_length=1)
    models: list[Name] | None = Field(default=None, min_length=1)
    limits: LimitsBody = LimitsBody()


class CreateWorkspaceRequest(AdminModel):
    """The body of `POST /v1/admin/workspaces`. Without `organisation_id`: the admin key's own."""

    name: Name
    organisation_id: str | None = None
    limits: LimitsBody = LimitsBody()


class CreateOrganisationRequest(AdminModel):
    """The body of `POST /v1/admin/organisations`."""

    name: Name
    limits: LimitsBody = LimitsBody()


class UpdateLimitsRequest(AdminModel):
    """The body of `PATCH` on a key, a workspace or an organisation: all of its limits anew."""

    limits: LimitsBody


class SetPriceRequest(AdminModel):
    """The body of `POST /v1/admin/prices`: micro-dollars per million tokens."""

    model: Name
    input_micros: int = Field(ge=0)
    output_micros: int = Field(ge=0)
    cached_percent: int = Field(default=10, ge=0, le=100)
    batch_percent: int = Field(default=50, ge=0, le=100)
    effective_at: Moment | None = None


class KeyBody(BaseModel):
    """A key as the administration sees it; `key`, its spelling, only in the answer that made it."""

    key_id: str
    key: str | None = None
    name: str
    hidden_key: str
    workspace_id: str
    workspace: str
    organisation_id: str
    organisation: str
    is_admin: bool
    endpoints: list[str] | None
    models: list[str] | None
    created_at: str
    expiration_date: str | None
    revoked_at: str | None
    limits: LimitsBody


class KeyList(BaseModel):
    """The answer of `GET /v1/admin/api-keys`."""

    object: Literal["list"] = "list"
    total: int
    keys: list[KeyBody]


class WorkspaceBody(BaseModel):
    """A workspace as the administration sees it."""

    id: str
    name: str
    organisation_id: str
    created_at: str
    archived_at: str | None
    limits: LimitsBody


class WorkspaceList(BaseModel):
    """The answer of `GET /v1/admin/workspaces`."""

    object: Literal["list"] = "list"
    data: list[WorkspaceBody]


class OrganisationBody(BaseModel):
    """An organisation as the administration sees it."""

    id: str
    name: str
    created_at: str
    archived_at: str | None
    limits: LimitsBody


class OrganisationList(BaseModel):
    """The answer of `GET /v1/admin/organisations`."""

    object: Literal["list"] = "list"
    data: list[OrganisationBody]


class PriceBody(BaseModel):
    """One price from its date on."""

    model: str
    effective_at: str
    input_micros: int
    output_micros: int
    cached_percent: int
    batch_percent: int


class PriceList(BaseModel):
    """The answer of `GET /v1/admin/prices`."""

    object: Literal["list"] = "list"
    data: list[PriceBody]


class TranscriptBody(BaseModel):
    """What was asked and answered; a stream's answer is its events."""

    request_id: str
    workspace_id: str
    created_at: str
    expires_at: str
    request: str
    answer: str


class UsageLine(BaseModel):
    """One group's sum; `group` has what `by` asked for."""

    group: dict[str, str]
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    total_tokens: int
    price_micros: int
    unknown_requests: int


class UsageReport(BaseModel):
    """The answer of `GET /v1/admin/usage`."""

    object: Literal["usage"] = "usage"
    start_date: str
    end_date: str
    currency: Literal["USD"] = "USD"
    total: UsageLine
    data: list[UsageLine]
