"""What goes wrong with an upstream → our errors: whose fault it is, and whether to try again.

An upstream's words reach a client only where they are about the client's request, and never with
the key in them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2 as httpx
import orjson

from cierzo.errors import (
    CierzoError,
    ContextOverflowError,
    RequestError,
    UnsupportedRequestError,
    UpstreamAwayError,
    UpstreamBusyError,
    UpstreamError,
)

MAX_SHOWN_CHARS = 500
"""Of an upstream's message."""

RETRY_AFTER_S = 5
"""What a client is told to wait where the upstream says nothing of it."""

MAX_RETRY_AFTER_S = 3600.0

OVERFLOWS = ("3051", "context_length_exceeded", "exceed_context_size_error")
"""How Mistral's API, OpenAI's and llama.cpp's server (in `type`) call what is too long."""


@dataclass(eq=False)
class Failure(Exception):
    """`error` is what the caller is told. `may_pass`: worth another attempt, after `wait_s` if
    the upstream said so. `is_down`: it says something of the upstream's health."""

    error: CierzoError
    may_pass: bool = False
    is_down: bool = False
    wait_s: float | None = None

    @property
    def outcome(self) -> str:
        """Its kind, in a word."""
        if isinstance(self.error, UpstreamBusyError):
            return "busy"
        if isinstance(self.error, UpstreamAwayError):
            return "away"
        return "failed" if isinstance(self.error, UpstreamError) else "refused"


def away(name: str, why: str, retry_after_s: float = RETRY_AFTER_S) -> UpstreamAwayError:
    wait_s = max(1, math.ceil(retry_after_s))
    return UpstreamAwayError(
        f"the upstream {name} {why}; try again in {wait_s} s", retry_after_s=wait_s
    )


def nonsense(name: str, what: str) -> Failure:
    """It answered, but not as its kind does."""
    return Failure(UpstreamError(f"the upstream {name} answered {what}"), is_down=True)


def of_exception(name: str, error: httpx.HTTPError) -> Failure:
    """The connection, or its silence."""
    if isinstance(error, httpx.PoolTimeout):
        full = UpstreamBusyError(
            f"too many requests wait for the upstream {name}; try again in {RETRY_AFTER_S} s",
            retry_after_s=RETRY_AFTER_S,
        )
        return Failure(full)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return Failure(away(name, "cannot be reached"), may_pass=True, is_down=True)
    if isinstance(error, httpx.ReadTimeout):  # it may still be computing: not once more
        return Failure(UpstreamError(f"the upstream {name} fell silent"), is_down=True)
    if isinstance(error, httpx.DecodingError | httpx.SSEError):
        return nonsense(name, "what cannot be read")
    broken = UpstreamError(f"the upstream {name} broke off the connection")
    return Failure(broken, may_pass=True, is_down=True)


def of_status(
    name: str, status: int, headers: Mapping[str, str], body: bytes, key: str | None
) -> Failure:
    """An answer other than 200."""
    wait_s = retry_after_s(headers)
    if status == 429:
        seconds = max(1, math.ceil(RETRY_AFTER_S if wait_s is None else wait_s))
        full = UpstreamBusyError(
            f"the upstream {name} takes no more requests now; try again in {seconds} s",
            retry_after_s=seconds,
        )
        return Failure(full, may_pass=True, wait_s=wait_s)
    if status in (502, 503, 504):
        error = away(name, "is not ready", RETRY_AFTER_S if wait_s is None else wait_s)
        return Failure(error, may_pass=True, is_down=True, wait_s=wait_s)
    if status in (404, 405, 501):
        return Failure(
            UnsupportedRequestError(f"the upstream {name} does not have this (status {status})")
        )
    if status >= 500:
        failed = UpstreamError(f"the upstream {name} failed (status {status})")
        return Failure(failed, may_pass=True, is_down=True, wait_s=wait_s)
    if status in (401, 402, 403):
        return Failure(
            UpstreamError(
                f"the upstream {name} does not let this server in (status {status}): its owner "
                "should look at the key and the account there"
            )
        )
    if 400 <= status < 500:
        return Failure(_refusal(name, body, key))
    return nonsense(name, f"with status {status}")


def _refusal(name: str, body: bytes, key: str | None) -> RequestError:
    """Of a request that makes no sense to the upstream, in its own words."""
    try:
        told: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = None
    fields = told if isinstance(told, dict) else {}
    if isinstance(fields.get("error"), dict):  # OpenAI's shape
        fields = fields["error"]
    message = fields.get("message") or fields.get("detail") or "it gave no reason"
    if not isinstance(message, str):
        message = orjson.dumps(message).decode()
    if key:
        message = message.replace(key, "[key]")
    text = f"the upstream {name} refused the request: {message[:MAX_SHOWN_CHARS]}"
    param = fields.get("param") if isinstance(fields.get("param"), str) else None
    is_overflow = any(fields.get(name) in OVERFLOWS for name in ("code", "type"))
    kind = ContextOverflowError if is_overflow else RequestError
    return kind(text, param=param)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` says, seconds or a date; None for nothing that makes sense."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None
