"""A rival's server in processes of its own, until it is no longer wanted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from urllib.error import URLError
from urllib.request import urlopen


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@contextmanager
def served(
    command: Sequence[str],
    port: int,
    max_start_s: float,
    variables: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """The base URL of what `command` serves on `port`, once it is healthy. Raises SystemExit."""
    null = subprocess.DEVNULL
    with subprocess.Popen(
        command,
        stdout=null,
        stderr=null,
        env={**os.environ, **(variables or {})},
        start_new_session=True,
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            if not _is_healthy(url, process, max_start_s):
                by_hand = f"run it by hand to see why: {' '.join(command)}"
                raise SystemExit(f"no health within {max_start_s:g} s; {by_hand}")
            yield url
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def _is_healthy(url: str, process: subprocess.Popen[bytes], max_start_s: float) -> bool:
    """True once it is; False when it ended, or took too long."""
    deadline_s = time.monotonic() + max_start_s
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urlopen(f"{url}/health", timeout=1):  # 503 while it loads is an error, too
                return True
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    return False
