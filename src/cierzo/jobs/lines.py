"""The lines of a job: read from its files, written to its files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection

from cierzo.errors import StoreError
from cierzo.ids import new_id, now_ms
from cierzo.store import Database, batch_jobs
from cierzo.store.batch_jobs import BatchJob
from cierzo.store.files import FileRecord, FileStore, Incoming

MAX_LINES = 100_000
MAX_LINE_NBYTES = 32 * 1024 * 1024
MAX_FAULTS = 20


class Line(BaseModel):
    """One request of a job."""

    model_config = ConfigDict(extra="forbid")

    custom_id: str | None = Field(default=None, max_length=512)
    body: dict[str, Any]


def read_lines(store: FileStore, job: BatchJob) -> Iterator[tuple[int, Line]]:
    """Every request with its number, over all input files. Blocking.

    Raises StoreError, naming the line, for one that is no request, and for a file that is gone.
    """
    number = 0
    for file_id in job.input_files if job.inline_file is None else [job.inline_file]:
        record = store.find(file_id)
        if record is None or record.workspace_id != job.workspace_id:
            raise StoreError(f"the input file {file_id} is gone")
        with store.open(record) as file:
            at = 0
            while data := file.readline(MAX_LINE_NBYTES + 1):
                at += 1
                if data.strip():
                    yield number, _parsed(data, f"line {at} of {record.filename}")
                    number += 1


def _parsed(data: bytes, where: str) -> Line:
    if len(data) > MAX_LINE_NBYTES:
        raise StoreError(f"{where} is over {MAX_LINE_NBYTES} bytes")
    try:
        return Line.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise StoreError(f"{where} is no request: {place or 'JSON'}: {fault['msg']}") from None


def check_lines(store: FileStore, job: BatchJob) -> int:
    """How many requests there are. Raises StoreError for the first that cannot be one."""
    count = 0
    ids: set[str] = set()
    for number, line in read_lines(store, job):
        count = number + 1
        if count > MAX_LINES:
            raise StoreError(f"a job has at most {MAX_LINES} requests; split it")
        if line.custom_id is not None:
            if line.custom_id in ids:
                raise StoreError(f"the custom_id {line.custom_id!r} is there twice")
            ids.add(line.custom_id)
    if not count:
        raise StoreError("there are no requests in the input")
    return count


def answered(job: BatchJob, number: int, line: Line, status: int, body: Any) -> bytes:
    """A line of an output or error file."""
    fields = {
        "id": f"batch-{job.id[:8]}-{number}-{new_id()}",
        "custom_id": line.custom_id,
        "response": {"status_code": status, "body": body},
        "error": None if status < 400 else body,
    }
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def end_job(
    database: Database,
    store: FileStore,
    job: BatchJob,
    status: batch_jobs.Status,
    errors: list[dict[str, Any]],
) -> bool:
    """Its answered lines become its files. Blocking.

    False where a line came meanwhile, and for a job that is over or gone: nothing has changed.
    """
    with store.receive() as output, store.receive() as failures:

        def write(connection: Connection) -> None:
            for incoming, is_success in ((output, True), (failures, False)):
                for line in batch_jobs.lines(connection, job.id, is_success=is_success):
                    incoming.write(line)

        database.read(write)
        written = [_record(job, output, "result"), _record(job, failures, "error")]
        pairs = zip((output, failures), written, strict=True)
        kept = [(one, record) for one, record in pairs if one.num_bytes]
        for one, _ in kept:
            one.seal()
        records = {record.sample_type: record for _, record in kept}
        has_ended = batch_jobs.finish(
            database,
            job.id,
            status,
            errors,
            records.get("batch_result"),
            records.get("batch_error"),
        )
        for one, _ in kept:
            if has_ended:
                one.land()
            else:
                one.drop()
    if has_ended and job.inline_file is not None and (inline := store.find(job.inline_file)):
        store.delete(inline)
    return has_ended


def _record(job: BatchJob, incoming: Incoming, kind: str) -> FileRecord:
    return FileRecord(
        id=incoming.id,
        workspace_id=job.workspace_id,
        filename=f"{job.id}-{kind}.jsonl",
        purpose="batch",
        sample_type=f"batch_{kind}",
        source="mistral",
        mimetype="application/jsonl",
        size_nbytes=incoming.num_bytes,
        num_lines=incoming.num_lines,
        created_at_ms=now_ms(),
    )
