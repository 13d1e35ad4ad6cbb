"""llama.cpp's server as a rival for `benchmarks.server`, started at its best for each case.

Its best, of what was tried: one slot per client up to 32, flash attention off (fewer than 64 rows
at a time are several times slower with it), a thread per core; and for prompts that share a
beginning one slot, since each slot keeps a copy of its own. Knows nothing of what is measured.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

MAX_SLOTS = 32
TOKENS_PER_SLOT = 1024
MAX_START_S = 60


@contextmanager
def served(binary: Path, model: Path, work: str, clients: int) -> Iterator[str]:
    """`llama-server` in a process of its own; its base URL, once it answers."""
    slots = 1 if work == "classify" else min(clients, MAX_SLOTS)
    threads = str(len(os.sched_getaffinity(0)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(binary), "-m", str(model), "--port", str(port), "-t", threads, "-tb", threads]
    command += ["-np", str(slots), "-c", str(slots * TOKENS_PER_SLOT), "-b", "2048", "-ub", "512"]
    command += ["-fa", "off", "--no-webui"]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=null, stderr=null) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _await_health(url, process)
            yield url
        finally:
            process.terminate()


def _await_health(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + MAX_START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urlopen(f"{url}/health"):  # 503 while it loads is an error, too
                return
        except (URLError, ConnectionError):
            time.sleep(0.1)
    raise SystemExit("llama-server did not become healthy; run it by hand to see why")
