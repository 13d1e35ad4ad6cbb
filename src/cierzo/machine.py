"""What this machine has for us. Imports nothing of ours, so that every layer may ask it."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUP_FILES = (  # limit, use, and the part of the use that is file cache; versions 2 and 1
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory this process may still take: the machine's, or its container's if that is less."""
    free_bytes = int(psutil.virtual_memory().available)
    for limit, used, reclaimable in _CGROUP_FILES:
        try:
            limit_bytes = int((cgroup / limit).read_text())  # "max" when there is no limit
            used_bytes = int((cgroup / used).read_text())
            lines = (cgroup / used).with_name("memory.stat").read_text().splitlines()
            cached_bytes = int(dict(line.split() for line in lines)[reclaimable])
        except (OSError, ValueError, KeyError):
            continue
        free_bytes = min(free_bytes, max(0, limit_bytes - used_bytes + cached_bytes))
    return free_bytes
