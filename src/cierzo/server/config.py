"""How the server behaves, decided once by whoever starts it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """`strict_fields` refuses unknown request fields (422) instead of ignoring them.

    `ping_interval_s` is the longest silence on a stream. On shutdown, running requests
    have `drain_s` to finish before they are cut off. Of one workspace at most
    `max_open_per_workspace` requests run and wait at once (None: no such bound). Prompts and
    answers are kept for `transcript_days` (None: not stored).
    """

    strict_fields: bool = False
    max_body_bytes: int = 32 * 1024 * 1024
    max_file_bytes: int = 512 * 1024 * 1024
    ping_interval_s: float = 10.0
    drain_s: float = 30.0
    max_open_per_workspace: int | None = None
    transcript_days: int | None = None
