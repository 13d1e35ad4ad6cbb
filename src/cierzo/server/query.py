"""What stands behind the question mark of a URL: numbers and yes or no, within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from cierzo.errors import RequestError

MAX_NUMBER = 10**12 - 1

TEXT: dict[str, Any] = {"type": "string"}
TEXTS: dict[str, Any] = {"type": "array", "items": TEXT}
YES_OR_NO: dict[str, Any] = {"type": "boolean"}


def number(least: int = 0, most: int = MAX_NUMBER) -> dict[str, Any]:
    """How OpenAPI describes what `whole_number` reads."""
    return {"type": "integer", "minimum": least, "maximum": most}


def one_of(values: Sequence[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


def whole_number(request: Request, name: str, default: int, least: int = 0) -> int:
    """Raises RequestError for what is no number of at most twelve digits, or under `least`."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 12) or int(text) < least:
        raise RequestError(f"{name} is a whole number from {least}; got {text[:50]!r}", param=name)
    return int(text)


def yes_or_no(request: Request, name: str, default: bool) -> bool:
    """`true` or `false`, as the SDKs write them. Raises RequestError."""
    text = request.query_params.get(name, "").lower()
    if text not in ("", "true", "false"):
        raise RequestError(f"{name} is true or false; got {text[:50]!r}", param=name)
    return default if text == "" else text == "true"
