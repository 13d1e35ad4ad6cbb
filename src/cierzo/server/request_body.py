"""Bytes of a request → one typed object: size limit, JSON, schema."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import islice
from typing import TypeVar

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from cierzo.server.error_responses import MAX_FAULTS, FieldErrors
from cierzo.server.schemas.common import WireModel

MAX_PAUSE_S = 30.0
"""Between two pieces of a body; who sends half of one does not keep a connection for ever."""

OFF_LOOP_BYTES = 64 * 1024
"""A longer body is parsed on a thread, so that other streams keep their pace."""

IGNORED_FIELDS_HEADER = "x-cierzo-ignored-fields"

Parsed = TypeVar("Parsed")
Schema = TypeVar("Schema", bound=WireModel)


async def read_request(request: Request, schema: type[Schema]) -> tuple[Schema, dict[str, str]]:
    """The body as a `schema`, and headers for the answer that name the fields it ignores.

    Raises FieldErrors (422), HTTPException (408, 413, 415).
    """
    config = request.app.state.config
    parse = partial(_parse_request, schema=schema, strict=config.strict_fields)
    return await read_body(request, parse, config.max_body_bytes)


def _parse_request(
    data: bytes, *, schema: type[Schema], strict: bool
) -> tuple[Schema, dict[str, str]]:
    body = parse_json(data, schema)
    extras = list(islice(body.extra_fields(strict=strict), MAX_FAULTS))
    if strict and extras:
        raise FieldErrors.from_extra_fields(extras)
    if not extras:
        return body, {}
    names = ", ".join(".".join(map(str, location)) for location, _ in extras)
    # Escaped, since a name is the client's and a header must not take line breaks from it.
    value = names.encode("unicode_escape").decode()[:1024].strip()  # nor end in a space
    return body, {IGNORED_FIELDS_HEADER: value} if value else {}


async def read_body(request: Request, parse: Callable[[bytes], Parsed], max_bytes: int) -> Parsed:
    """What `parse` makes of the body, which the request's state keeps meanwhile.

    Raises what `parse` does, and HTTPException (408, 413, 415).
    """
    data = request.state.body = await _read_bytes(request, max_bytes)
    if len(data) > OFF_LOOP_BYTES:
        return await asyncio.to_thread(parse, data)
    return parse(data)


def parse_json(data: bytes, schema: type[Schema]) -> Schema:
    """`data` as a `schema`. Raises FieldErrors (422)."""
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        raise FieldErrors.from_pydantic(error) from None


async def _read_bytes(request: Request, max_bytes: int) -> bytes:
    if declared_nbytes(request) > max_bytes:
        raise too_large(max_bytes)
    data = bytearray()
    async for chunk in body_chunks(request):
        data += chunk
        if len(data) > max_bytes:
            raise too_large(max_bytes)
    return bytes(data)


async def body_chunks(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises HTTPException (408, 415), ClientDisconnect."""
    packing = request.headers.get("content-encoding", "identity").strip().lower()
    if packing != "identity":  # a few kilobytes may unpack to gigabytes
        raise HTTPException(
            415,
            f"bodies are read as they are, and this one is packed ({packing[:50]}); send it"
            " without Content-Encoding",
            headers={"connection": "close"},
        )
    num_bytes = 0
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout(MAX_PAUSE_S):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise HTTPException(
                408,
                f"the body paused for {MAX_PAUSE_S:g} s after {num_bytes} bytes; send it again",
                headers={"connection": "close"},
            ) from None
        if chunk is None:
            return
        num_bytes += len(chunk)
        yield chunk


def declared_nbytes(request: Request) -> int:
    """What the client says that it will send; of what makes no sense only what comes counts."""
    declared = request.headers.get("content-length", "")
    return int(declared) if re.fullmatch("[0-9]{1,20}", declared) else 0


def too_large(max_bytes: int) -> HTTPException:
    return HTTPException(
        413,
        f"the request body is over the limit of {max_bytes} bytes; send less",
        headers={"connection": "close"},
    )
