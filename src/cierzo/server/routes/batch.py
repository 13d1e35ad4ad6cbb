"""`/v1/batch/jobs`: create, list, retrieve, cancel, delete. `cierzo.jobs` does the work."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime

import orjson
from starlette.requests import Request
from starlette.responses import Response

from cierzo.errors import RequestError
from cierzo.ids import new_id, now_ms
from cierzo.server.auth import Caller, Scope
from cierzo.server.error_responses import json_response
from cierzo.server.query import (
    TEXT,
    TEXTS,
    YES_OR_NO,
    number,
    one_of,
    whole_number,
    yes_or_no,
)
from cierzo.server.request_body import read_request
from cierzo.server.routes.common import answer, database_of, file_store_of, unix_ms
from cierzo.server.schemas import batch as wire
from cierzo.store import batch_jobs
from cierzo.store.batch_jobs import BatchJob, Filter
from cierzo.store.files import INTERNAL, FileRecord, FileStore

MAX_PAGE = 1000

SCOPES: dict[str, Scope] = {
    "/v1/chat/completions": "chat",
    "/v1/fim/completions": "fim",
    "/v1/embeddings": "embeddings",
}

ORDERS = ("created", "-created")

LIST_QUERY = {
    **{"page": number(), "page_size": number(1), "order_by": one_of(ORDERS)},
    **{"created_by_me": YES_OR_NO, "created_after": {"type": "string", "format": "date-time"}},
    **{"model": TEXT, "agent_id": TEXT, "status": TEXTS},
}
JOB_QUERY = {"inline": YES_OR_NO}


async def create_batch_job(request: Request) -> Response:
    body, headers = await read_request(request, wire.CreateBatchJobRequest)
    caller: Caller = request.state.caller
    caller.check(SCOPES.get(body.endpoint, "classifiers"))
    if body.agent_id is not None:
        raise RequestError("there are no agents here; give a model", param="agent_id")
    if (body.input_files is None) == (body.requests is None):
        raise RequestError("give input_files or requests, one of them", param="input_files")
    database, store = database_of(request), file_store_of(request)
    for file_id in body.input_files or ():
        await database.in_thread(store.get, caller.workspace_id, file_id)
    job = BatchJob(
        id=new_id(),
        workspace_id=caller.workspace_id,
        key_id=None if caller.key is None else caller.key.id,
        endpoint=body.endpoint,
        model=body.model,
        labels=body.metadata,
        input_files=body.input_files or [],
        inline_file=None if body.requests is None else await _keep_inline(request, body.requests),
        timeout_hours=body.timeout_hours,
    )
    await database.in_thread(batch_jobs.create, database, job)
    request.app.state.jobs_changed.set()
    return json_response(_body(job).model_dump(), headers=headers)


async def list_batch_jobs(request: Request) -> Response:
    """Newest first, or with `order_by=created` oldest first. What is no parameter is metadata."""
    query, database = request.query_params, database_of(request)
    caller: Caller = request.state.caller
    size = min(MAX_PAGE, whole_number(request, "page_size", 100, 1))
    offset = whole_number(request, "page", 0) * size
    order = query.get("order_by", "-created")
    if order not in ORDERS:
        raise RequestError("order_by is created or -created", param="order_by")
    is_mine = yes_or_no(request, "created_by_me", False)
    after = query.get("created_after")
    chosen = Filter(
        model=query.get("model", ""),
        statuses=query.getlist("status"),
        created_after_ms=None if after is None else _moment_ms(after),
        key_id=caller.key.id if is_mine and caller.key is not None else None,
        labels=tuple((k, v) for k, v in query.items() if k not in LIST_QUERY),
    )
    found, total = await database.in_thread(
        batch_jobs.list_jobs,
        database,
        caller.workspace_id,
        chosen,
        offset,
        size,
        oldest_first=order == "created",
    )
    return answer(wire.BatchJobList(data=[_body(job) for job in found], total=total))


async def retrieve_batch_job(request: Request) -> Response:
    job = await _found(request)
    body = _body(job)
    if yes_or_no(request, "inline", False) and job.is_finished:
        body.outputs = await asyncio.to_thread(_outputs, file_store_of(request), job)
    return answer(body)


async def cancel_batch_job(request: Request) -> Response:
    """What is answered by then stays, in its files."""
    job = await _found(request)
    database = database_of(request)
    await database.in_thread(batch_jobs.request_cancellation, database, job.id)
    request.app.state.jobs_changed.set()
    return answer(_body(await _found(request)))


async def delete_batch_job(request: Request) -> Response:
    """The job; its files stay. One that runs is cancelled by it."""
    job = await _found(request)
    database, store = database_of(request), file_store_of(request)
    await database.in_thread(batch_jobs.remove, database, job.id)
    if job.inline_file is not None:
        inline = await database.in_thread(store.find, job.inline_file)
        if inline is not None:
            await database.in_thread(store.delete, inline)
    return answer(wire.DeletedBatchJob(id=job.id))


async def _keep_inline(request: Request, requests: list[wire.BatchRequest]) -> str:
    """Inline requests as a file that only the server sees; its id."""
    store, workspace_id = file_store_of(request), request.state.caller.workspace_id

    def keep() -> str:
        with store.receive() as incoming:
            for one in requests:
                fields = {"custom_id": one.custom_id, "body": one.body}
                # Not orjson: a body may hold numbers of any size, for its endpoint to refuse.
                incoming.write(json.dumps(fields).encode() + b"\n")
            record = FileRecord(
                id=incoming.id,
                workspace_id=workspace_id,
                filename="requests.jsonl",
                purpose="batch",
                sample_type="batch_request",
                source="upload",
                mimetype="application/jsonl",
                size_nbytes=incoming.num_bytes,
                num_lines=incoming.num_lines,
                created_at_ms=now_ms(),
                visibility=INTERNAL,
            )
            store.keep(incoming, record)
            return record.id

    return await asyncio.to_thread(keep)


def _outputs(store: FileStore, job: BatchJob) -> list[dict[str, object]]:
    """The lines of both files. Blocking."""
    found: list[dict[str, object]] = []
    for file_id in (job.output_file, job.error_file):
        record = None if file_id is None else store.find(file_id)
        if record is not None:
            with store.open(record) as file:
                found += [orjson.loads(line) for line in file]
    return found


def _body(job: BatchJob) -> wire.BatchJobBody:
    started_ms, completed_ms = job.started_at_ms, job.completed_at_ms
    return wire.BatchJobBody(
        id=job.id,
        input_files=job.input_files,
        endpoint=job.endpoint,
        model=job.model,
        metadata=job.labels,
        errors=[wire.BatchError(**error) for error in job.errors],
        status=job.status,
        created_at=job.created_at_ms // 1000,
        started_at=None if started_ms is None else started_ms // 1000,
        completed_at=None if completed_ms is None else completed_ms // 1000,
        total_requests=job.num_requests,
        completed_requests=job.num_succeeded + job.num_failed,
        succeeded_requests=job.num_succeeded,
        failed_requests=job.num_failed,
        output_file=job.output_file,
        error_file=job.error_file,
    )


def _moment_ms(text: str) -> int:
    try:
        return unix_ms(datetime.fromisoformat(text))
    except ValueError:
        raise RequestError(
            f"created_after is a time as in ISO 8601; got {text[:50]!r}", param="created_after"
        ) from None


async def _found(request: Request) -> BatchJob:
    database, job_id = database_of(request), request.path_params["job_id"]
    workspace_id = request.state.caller.workspace_id
    return await database.in_thread(batch_jobs.get, database, workspace_id, job_id)
