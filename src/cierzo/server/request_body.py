"""Bytes of a request → one typed object: size limit, JSON, schema."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from cierzo.server.error_responses import FieldErrors
from cierzo.server.schemas.common import WireModel

OFF_LOOP_BYTES = 64 * 1024
"""A longer body is parsed on a thread, so that other streams keep their pace."""

Parsed = TypeVar("Parsed")
Schema = TypeVar("Schema", bound=WireModel)


async def read_body(request: Request, parse: Callable[[bytes], Parsed], max_bytes: int) -> Parsed:
    """What `parse` makes of the body. Raises what `parse` does, and HTTPException (413)."""
    data = await _read_bytes(request, max_bytes)
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
    # Of a length that makes no sense only the bytes that come are counted.
    declared = request.headers.get("content-length", "")
    if re.fullmatch("[0-9]{1,20}", declared) and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(data)


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(
        413,
        f"the request body is over the limit of {max_bytes} bytes; send less",
        headers={"connection": "close"},
    )
