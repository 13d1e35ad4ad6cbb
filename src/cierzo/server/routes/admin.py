"""`/v1/admin/…`: what the command line does with organisations, workspaces, keys, prices, usage.

An admin key sees and changes what is its organisation's; what is another's is not there. One of
the default organisation sees all.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar, get_args

from starlette.requests import Request
from starlette.responses import Response

from cierzo.errors import RequestError, StoreNotFoundError
from cierzo.ids import now_ms
from cierzo.server.auth import Caller
from cierzo.server.query import TEXT, number, one_of, whole_number
from cierzo.server.request_body import parse_json, read_body
from cierzo.server.routes.common import answer, database_of, unix_ms
from cierzo.server.schemas import admin as wire
from cierzo.store import api_keys, ledger, organisations, pricing, transcripts, workspaces
from cierzo.store.api_keys import ApiKey
from cierzo.store.ledger import By, Period, UsageSum
from cierzo.store.limits import Limits
from cierzo.store.organisations import Organisation
from cierzo.store.workspaces import Workspace

MAX_BODY_BYTES = 1024 * 1024
MAX_PAGE = 1000
GROUPS: dict[str, By] = {kind: kind for kind in get_args(By)}

KEYS_QUERY = {"limit": number(), "offset": number(), "name": TEXT, "workspace_id": TEXT}
USAGE_QUERY = {
    **{"month": number(1, 12), "year": number(1970, 9998)},
    **{"organisation_id": TEXT, "workspace_id": TEXT, "key_id": TEXT},
    "by": {"type": "array", "items": one_of(list(GROUPS))},
}

Body = TypeVar("Body", bound=wire.AdminModel)


async def list_keys(request: Request) -> Response:
    """`limit`, `offset`, `name`, `workspace_id`."""
    query, database = request.query_params, database_of(request)
    found = await database.in_thread(
        api_keys.list_all, database, query.get("workspace_id"), _administered(request)
    )
    if "name" in query:
        found = [key for key in found if key.name == query["name"]]
    offset = whole_number(request, "offset", 0)
    page = found[offset : offset + min(MAX_PAGE, whole_number(request, "limit", 100))]
    return answer(wire.KeyList(total=len(found), keys=[_key(key) for key in page]))


async def create_key(request: Request) -> Response:
    body = await _read(request, wire.CreateKeyRequest)
    database = database_of(request)
    workspace_id = body.workspace_id or _caller(request).workspace_id

    def create() -> tuple[ApiKey, str]:
        return api_keys.create(
            database,
            body.name,
            workspaces.find(database, workspace_id, _administered(request)).id,
            is_admin=body.is_admin,
            endpoints=body.endpoints,
            models=body.models,
            expires_at_ms=None if body.expiration is None else unix_ms(body.expiration),
            limits=_limits(body.limits),
        )

    key, spelling = await database.in_thread(create)
    return answer(_key(key).model_copy(update={"key": spelling}))


async def update_key(request: Request) -> Response:
    body = await _read(request, wire.UpdateLimitsRequest)
    key = await _found_key(request)
    database = database_of(request)
    await database.in_thread(api_keys.set_limits, database, key.id, _limits(body.limits))
    return await _changed_key(request)


async def revoke_key(request: Request) -> Response:
    key = await _found_key(request)
    database = database_of(request)
    await database.in_thread(api_keys.revoke, database, key.id)
    return await _changed_key(request)


async def list_workspaces(request: Request) -> Response:
    database = database_of(request)
    found = await database.in_thread(workspaces.list_all, database, _administered(request))
    return answer(wire.WorkspaceList(data=[_workspace(workspace) for workspace in found]))


async def create_workspace(request: Request) -> Response:
    body = await _read(request, wire.CreateWorkspaceRequest)
    database, caller = database_of(request), _caller(request)

    def create() -> Workspace:
        assert caller.key is not None
        named = _asked_organisation(request, body.organisation_id) or caller.key.organisation_id
        owner = organisations.find(database, named)
        return workspaces.create(database, body.name, _limits(body.limits), owner.id)

    return answer(_workspace(await database.in_thread(create)))


async def update_workspace(request: Request) -> Response:
    body = await _read(request, wire.UpdateLimitsRequest)
    found = await _found_workspace(request)
    database = database_of(request)
    await database.in_thread(workspaces.set_limits, database, found.id, _limits(body.limits))
    request.app.state.auth.forget()
    return answer(_workspace(await _found_workspace(request)))


async def archive_workspace(request: Request) -> Response:
    found = await _found_workspace(request)
    database = database_of(request)
    await database.in_thread(workspaces.archive, database, found.id)
    request.app.state.auth.forget()
    return answer(_workspace(await _found_workspace(request)))


async def list_organisations(request: Request) -> Response:
    database, administered = database_of(request), _administered(request)
    found = await database.in_thread(organisations.list_all, database)
    data = [_organisation(one) for one in found if administered in (None, one.id)]
    return answer(wire.OrganisationList(data=data))


async def create_organisation(request: Request) -> Response:
    body = await _read(request, wire.CreateOrganisationRequest)
    database = database_of(request)
    limits = _limits(body.limits)
    made = await database.in_thread(organisations.create, database, body.name, limits)
    return answer(_organisation(made))


async def update_organisation(request: Request) -> Response:
    body = await _read(request, wire.UpdateLimitsRequest)
    found = await _found_organisation(request)
    database = database_of(request)
    await database.in_thread(organisations.set_limits, database, found.id, _limits(body.limits))
    request.app.state.auth.forget()
    return answer(_organisation(await _found_organisation(request)))


async def archive_organisation(request: Request) -> Response:
    found = await _found_organisation(request)
    database = database_of(request)
    await database.in_thread(organisations.archive, database, found.id)
    request.app.state.auth.forget()
    return answer(_organisation(await _found_organisation(request)))


async def list_prices(request: Request) -> Response:
    database = database_of(request)
    found = await database.in_thread(pricing.list_prices, database)
    data = [
        wire.PriceBody(model=row.model, effective_at=_iso(row.effective_at_ms), **asdict(row.price))
        for row in found
    ]
    return answer(wire.PriceList(data=data))


async def set_price(request: Request) -> Response:
    body = await _read(request, wire.SetPriceRequest)
    price = pricing.Price(
        body.input_micros, body.output_micros, body.cached_percent, body.batch_percent
    )
    at_ms = now_ms() if body.effective_at is None else unix_ms(body.effective_at)
    database = database_of(request)
    await database.in_thread(pricing.set_price, database, body.model, price, at_ms)
    return await list_prices(request)


async def report_usage(request: Request) -> Response:
    """`month` and `year` (default: this month), `organisation_id`, `workspace_id`, `key_id`, `by`
    (repeated)."""
    query, database = request.query_params, database_of(request)
    now = datetime.now(UTC)
    year, month = whole_number(request, "year", now.year), whole_number(request, "month", now.month)
    if not (1 <= month <= 12 and 1970 <= year <= 9998):
        raise RequestError(f"there is no month {month} of {year}", param="month")
    start = datetime(year, month, 1, tzinfo=UTC)
    end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    period = Period(
        unix_ms(start),
        unix_ms(end),
        query.get("workspace_id"),
        query.get("key_id"),
        organisation_id=_asked_organisation(request, query.get("organisation_id")),
    )
    by: list[By] = []
    for kind in query.getlist("by") or ["model"]:
        if kind not in GROUPS:
            raise RequestError(f"by is one of {', '.join(GROUPS)}; got {kind!r}", param="by")
        by.append(GROUPS[kind])
    lines = await database.in_thread(ledger.summarise, database, period, by)
    total = await database.in_thread(ledger.total, database, period)
    report = wire.UsageReport(
        start_date=_iso(period.since_ms),
        end_date=_iso(unix_ms(end)),
        total=_usage(total, []),
        data=[_usage(line, by) for line in lines],
    )
    return answer(report)


async def retrieve_transcript(request: Request) -> Response:
    database, request_id = database_of(request), request.path_params["request_id"]
    found = await database.in_thread(transcripts.find, database, request_id, _administered(request))
    body = wire.TranscriptBody(
        request_id=found.request_id,
        workspace_id=found.workspace_id,
        created_at=_iso(found.created_at_ms),
        expires_at=_iso(found.expires_at_ms),
        request=found.request.decode(errors="replace"),
        answer=found.answer.decode(errors="replace"),
    )
    return answer(body)


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


def _administered(request: Request) -> str | None:
    return _caller(request).administered_id


def _asked_organisation(request: Request, asked: str | None) -> str | None:
    """That asked for, or else the one administered; None: every one. Raises StoreNotFoundError."""
    administered = _administered(request)
    if asked is not None and administered not in (None, asked):
        raise StoreNotFoundError(f"no organisation {asked!r} that this key administers")
    return asked or administered


async def _read(request: Request, schema: type[Body]) -> Body:
    return await read_body(request, partial(parse_json, schema=schema), MAX_BODY_BYTES)


async def _found_key(request: Request) -> ApiKey:
    database = database_of(request)
    key_id = request.path_params["key_id"]
    return await database.in_thread(api_keys.get, database, key_id, _administered(request))


async def _changed_key(request: Request) -> Response:
    request.app.state.auth.forget()
    return answer(_key(await _found_key(request)))


async def _found_workspace(request: Request) -> Workspace:
    database, name = database_of(request), request.path_params["workspace_id"]
    return await database.in_thread(workspaces.find, database, name, _administered(request))


async def _found_organisation(request: Request) -> Organisation:
    database, name = database_of(request), request.path_params["organisation_id"]
    return await database.in_thread(organisations.find, database, name)


def _limits(body: wire.LimitsBody) -> Limits:
    return Limits(**body.model_dump())


def _key(key: ApiKey) -> wire.KeyBody:
    return wire.KeyBody(
        key_id=key.id,
        name=key.name,
        hidden_key=f"cierzo_{key.id}_…",
        workspace_id=key.workspace_id,
        workspace=key.workspace,
        organisation_id=key.organisation_id,
        organisation=key.organisation,
        is_admin=key.is_admin,
        endpoints=None if key.endpoints is None else list(key.endpoints),
        models=None if key.models is None else list(key.models),
        created_at=_iso(key.created_at_ms),
        expiration_date=None if key.expires_at_ms is None else _iso(key.expires_at_ms),
        revoked_at=None if key.revoked_at_ms is None else _iso(key.revoked_at_ms),
        limits=wire.LimitsBody(**key.limits.columns()),
    )


def _workspace(workspace: Workspace) -> wire.WorkspaceBody:
    archived = workspace.archived_at_ms
    return wire.WorkspaceBody(
        id=workspace.id,
        name=workspace.name,
        organisation_id=workspace.organisation_id,
        created_at=_iso(workspace.created_at_ms),
        archived_at=None if archived is None else _iso(archived),
        limits=wire.LimitsBody(**workspace.limits.columns()),
    )


def _organisation(organisation: Organisation) -> wire.OrganisationBody:
    archived = organisation.archived_at_ms
    return wire.OrganisationBody(
        id=organisation.id,
        name=organisation.name,
        created_at=_iso(organisation.created_at_ms),
        archived_at=None if archived is None else _iso(archived),
        limits=wire.LimitsBody(**organisation.limits.columns()),
    )


def _usage(line: UsageSum, by: list[By]) -> wire.UsageLine:
    return wire.UsageLine(
        group=dict(zip(by, line.group, strict=True)),
        requests=line.requests,
        prompt_tokens=line.prompt_tokens,
        cached_tokens=line.cached_tokens,
        completion_tokens=line.completion_tokens,
        total_tokens=line.total_tokens,
        price_micros=line.price_micros,
        unknown_requests=line.unknown_requests,
    )


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
