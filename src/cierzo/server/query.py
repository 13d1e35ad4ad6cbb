"""What stands behind the question mark of a URL: numbers and yes or no, within bounds."""

from __future__ import annotations

from starlette.requests import Request

from cierzo.errors import RequestError


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
