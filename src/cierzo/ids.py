"""Identifiers that sort by time. Imports nothing of ours."""

from __future__ import annotations

import secrets
import time
import uuid


def new_id() -> str:
    """A UUIDv7: unix milliseconds first."""
    value = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return str(uuid.UUID(int=value))


def now_ms() -> int:
    """Unix milliseconds, as the store keeps times."""
    return time.time_ns() // 1_000_000
