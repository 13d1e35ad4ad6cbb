"""A line of the log for every request: who, what, how much and how long; never what was said.

Knows nothing of where the lines go or how they are spelled (`cli/logs.py`).
"""

from __future__ import annotations

import logging
from typing import Any

from starlette.types import Scope

from cierzo.server.auth import Caller
from cierzo.server.metering import Metered

logger = logging.getLogger(__name__)

UNTOLD_ROUTES = frozenset(("/health", "/metrics"))
"""Asked by machines every few seconds."""


def log_request(scope: Scope, route: str, status: int, duration_s: float) -> None:
    """Tell of a request that is over. Times in milliseconds; null where there was none."""
    if route in UNTOLD_ROUTES or not logger.isEnabledFor(logging.INFO):
        return
    state = scope.get("state", {})
    caller: Caller | None = state.get("caller")
    key = caller.key if caller is not None else None
    fields = {
        "request_id": state.get("request_id"),
        "method": scope["method"],
        "route": route,
        "status": status,
        "duration_ms": _ms(duration_s),
        "workspace": caller.workspace_id if caller is not None else None,
        "key": key.name if key is not None else None,
        **_computed(state.get("metered")),
    }
    logger.info("request", extra={"fields": fields})


def _computed(metered: Metered | None) -> dict[str, Any]:
    """What a request that was let in cost. `outcome` is its row's in the ledger."""
    if metered is None:
        return {}
    fields: dict[str, Any] = {"model": metered.name}
    if metered.record is not None:
        fields["outcome"] = metered.record.status
    usage = metered.usage
    if usage is not None:
        first_s = usage.first_token_s
        fields |= {
            "prompt_tokens": usage.num_prompt_tokens,
            "cached_tokens": usage.num_cached_tokens,
            "completion_tokens": usage.num_completion_tokens,
            "ttft_ms": None if first_s is None else _ms(first_s - usage.started_s),
        }
    return fields


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)
