"""Where a server's log goes and how it is spelled: text for people, JSON lines for collectors.

Knows nothing of what is logged.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal


def configure_logs(spelling: Literal["text", "json"]) -> None:
    """Send the log to stderr: warnings and errors as text, or as JSON these and every request."""
    handler = logging.StreamHandler()
    if spelling == "json":
        handler.setFormatter(JsonFormatter())
        logging.getLogger("cierzo.server.request_log").setLevel(logging.INFO)
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every client that left


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the record's `fields`.

    Of an exception it tells type and stack and not the words, which may quote a prompt.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info is not None and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["stack"] = _stack(record.exc_info[2])
        return json.dumps(line, default=str, ensure_ascii=False)


def _stack(trace: TracebackType | None) -> list[str]:
    """Outermost call first."""
    frames = traceback.extract_tb(trace)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
