"""`/v1/files`: upload, list, retrieve, delete, download, and links that need no key."""

from __future__ import annotations

import asyncio
import hmac
import mimetypes
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import BinaryIO
from urllib.parse import quote

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from cierzo.errors import RequestError, StoreNotFoundError
from cierzo.ids import now_ms
from cierzo.server.auth import Caller
from cierzo.server.error_responses import FieldErrors
from cierzo.server.query import TEXT, TEXTS, YES_OR_NO, number, whole_number, yes_or_no
from cierzo.server.routes.common import answer, database_of, file_store_of
from cierzo.server.schemas import files as wire
from cierzo.server.upload import read_form
from cierzo.store.files import FileRecord, Filter, Incoming

MAX_PAGE = 1000
READ_NBYTES = 256 * 1024
HOUR_MS = 3_600_000

SAMPLE_TYPES = {"fine-tune": "instruct", "batch": "batch_request", "ocr": "ocr_input"}

JSONL = "application/jsonl"

LIST_QUERY = {
    **{name: TEXT for name in ("purpose", "search", "after")},
    **{name: TEXTS for name in ("sample_type", "source", "mimetypes")},
    **{"page": number(), "page_size": number(1), "limit": number(1), "include_total": YES_OR_NO},
}
LINK_QUERY = {"expiry": number(1, wire.MAX_HOURS)}
SIGNED_QUERY = {"expires": number(), "signature": TEXT}


async def upload_file(request: Request) -> Response:
    """The bytes go to the disk as they come; the file is there with its row, or not at all."""
    store, in_thread = file_store_of(request), database_of(request).in_thread
    await in_thread(store.delete_expired)
    with store.receive() as incoming:
        max_nbytes = request.app.state.config.max_file_bytes
        form = await read_form(request, incoming.write, max_nbytes)
        assert form.filename is not None
        record = _record(request.state.caller, incoming, form.filename, form.fields)
        await in_thread(store.keep, incoming, record)
    return answer(_body(record))


async def list_files(request: Request) -> Response:
    """Newest first. `after` and `limit` are OpenAI's."""
    query = request.query_params
    limit = whole_number(request, "limit", 100, 1)
    size = min(MAX_PAGE, whole_number(request, "page_size", limit, 1))
    offset = whole_number(request, "page", 0) * size
    chosen = Filter(
        query.get("purpose", ""),
        query.get("search", ""),
        query.getlist("sample_type"),
        query.getlist("source"),
        query.getlist("mimetypes"),
        query.get("after", ""),
    )
    in_thread, store = database_of(request).in_thread, file_store_of(request)
    workspace_id = request.state.caller.workspace_id
    found, total = await in_thread(store.list, workspace_id, chosen, offset, size)
    wants_total = yes_or_no(request, "include_total", True)
    data = [_body(record) for record in found]
    has_more = offset + len(found) < total
    return answer(wire.FileList(data=data, total=total if wants_total else None, has_more=has_more))


async def retrieve_file(request: Request) -> Response:
    record = await _found(request)
    return answer(wire.RetrievedFile(**_body(record).model_dump()))


async def delete_file(request: Request) -> Response:
    record = await _found(request)
    await database_of(request).in_thread(file_store_of(request).delete, record)
    return answer(wire.DeletedFile(id=record.id))


async def download_file(request: Request) -> Response:
    return await _content(request, await _found(request))


async def sign_url(request: Request) -> Response:
    """A link that works without a key for `expiry` hours, or until the file is deleted."""
    record = await _found(request)
    hours = whole_number(request, "expiry", 24, 1)
    if hours > wire.MAX_HOURS:
        raise RequestError(f"expiry is at most {wire.MAX_HOURS} hours; got {hours}", param="expiry")
    expires = int(time.time()) + hours * 3600
    link = request.url_for("download_signed", file_id=record.id)
    signed = link.include_query_params(expires=expires, signature=_signature(record, expires))
    return answer(wire.SignedUrl(url=str(signed)))


async def download_signed(request: Request) -> Response:
    """For whoever has a link made by `sign_url`; one of any other kind leads nowhere."""
    store, file_id = file_store_of(request), request.path_params["file_id"]
    record = await database_of(request).in_thread(store.find, file_id)
    expires = whole_number(request, "expires", 0)
    given = request.query_params.get("signature", "").encode()
    is_good = record is not None and hmac.compare_digest(
        given, _signature(record, expires).encode()
    )
    if record is None or not is_good or expires < time.time():
        raise StoreNotFoundError("this link leads to no file, or it has expired; ask for a new one")
    return await _content(request, record)


def _record(
    caller: Caller, incoming: Incoming, filename: str, fields: dict[str, str]
) -> FileRecord:
    """Raises FieldErrors, RequestError."""
    try:
        form = wire.FileUpload.model_validate({**fields, "file": ""})
    except ValidationError as error:
        raise FieldErrors.from_pydantic(error) from None
    is_jsonl = filename.endswith(".jsonl")
    purpose = form.purpose or ("fine-tune" if is_jsonl else "ocr")
    if purpose == "fine-tune" and not is_jsonl:
        raise RequestError("a file for fine-tuning is named *.jsonl", param="file")
    created_at_ms = now_ms()
    # The name tells; the part's header is a guess of the client's.
    guessed = JSONL if is_jsonl else mimetypes.guess_type(filename)[0]
    return FileRecord(
        id=incoming.id,
        workspace_id=caller.workspace_id,
        filename=filename,
        purpose=purpose,
        sample_type=SAMPLE_TYPES.get(purpose, purpose),
        source="upload",
        mimetype=guessed or "application/octet-stream",
        size_nbytes=incoming.num_bytes,
        num_lines=incoming.num_lines if is_jsonl else None,
        created_at_ms=created_at_ms,
        expires_at_ms=None if form.expiry is None else created_at_ms + form.expiry * HOUR_MS,
        visibility=form.visibility or "workspace",
    )


def _body(record: FileRecord) -> wire.FileBody:
    expires_at_ms = record.expires_at_ms
    return wire.FileBody(
        id=record.id,
        bytes=record.size_nbytes,
        created_at=record.created_at_ms // 1000,
        filename=record.filename,
        purpose=record.purpose,
        sample_type=record.sample_type,
        source=record.source,
        num_lines=record.num_lines,
        mimetype=record.mimetype,
        expires_at=None if expires_at_ms is None else expires_at_ms // 1000,
        visibility=record.visibility,
    )


async def _content(request: Request, record: FileRecord) -> Response:
    file = await asyncio.to_thread(file_store_of(request).open, record)
    headers = {
        "content-length": str(record.size_nbytes),
        # Percent-encoded: a name is the client's, and a header must not take anything from it.
        "content-disposition": f"attachment; filename*=UTF-8''{quote(record.filename, safe='')}",
        "x-content-type-options": "nosniff",
    }
    # The SDKs take no other type, whatever is in the file.
    media_type = "application/octet-stream"
    if request.method == "HEAD":
        file.close()
        return Response(headers=headers, media_type=media_type)
    return StreamingResponse(_chunks(file), headers=headers, media_type=media_type)


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, READ_NBYTES):
            yield chunk


def _signature(record: FileRecord, expires: int) -> str:
    return hmac.new(record.url_secret, f"{record.id}:{expires}".encode(), sha256).hexdigest()


async def _found(request: Request) -> FileRecord:
    in_thread, store = database_of(request).in_thread, file_store_of(request)
    workspace_id = request.state.caller.workspace_id
    return await in_thread(store.get, workspace_id, request.path_params["file_id"])
