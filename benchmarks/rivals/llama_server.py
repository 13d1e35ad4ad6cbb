"""llama.cpp's server as a rival for `benchmarks.server`, started at its best for each case.

Its best, of what was tried: one slot per client up to 32, flash attention off (fewer than 64 rows
at a time are several times slower with it), a thread per core; and for prompts that share a
beginning one slot, since each slot keeps a copy of its own. Knows nothing of what is measured.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.rivals import process

MAX_SLOTS = 32
TOKENS_PER_SLOT = 1024
MAX_START_S = 60


def served(binary: Path, model: Path, work: str, clients: int) -> AbstractContextManager[str]:
    """`llama-server`'s base URL."""
    slots = 1 if work == "classify" else min(clients, MAX_SLOTS)
    threads = str(len(os.sched_getaffinity(0)))
    port = process.free_port()
    command = [str(binary), "-m", str(model), "--port", str(port), "-t", threads, "-tb", threads]
    command += ["-np", str(slots), "-c", str(slots * TOKENS_PER_SLOT), "-b", "2048", "-ub", "512"]
    command += ["-fa", "off", "--no-webui"]
    return process.served(command, port, MAX_START_S)
