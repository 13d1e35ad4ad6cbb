"""`cierzo serve` on a tiny model, in a process that may be killed, on a data folder that stays."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from cierzo.store import Database, open_database
from tests.tiny_checkpoints import BlockType, tiny_model, write_gguf


class Broken(Exception):
    """The server did what it must not do."""


def say(line: str) -> None:
    print(line, flush=True)


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


@dataclass
class Place:
    """What a server is started on. Without a `database_url` its database is in `data`."""

    model: Path
    data: Path
    database_url: str | None = None

    @contextmanager
    def served(self) -> Iterator[Server]:
        flags = ["--max-running", "32", "--max-waiting", "512", "--max-model-len", "512"]
        command = [sys.executable, "-m", "cierzo", "serve", str(self.model), "--port", "0"]
        url = {} if self.database_url is None else {"CIERZO_DATABASE_URL": self.database_url}
        env = {**os.environ, **url, "CIERZO_HOME": str(self.model.parent)}
        process = subprocess.Popen(
            [*command, *flags, "--memory", "600MB", "--data", str(self.data)],
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+?:\d+", process.stdout.readline())
            require(found is not None, "the server did not start")
            assert found is not None
            yield Server(found[0], process)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    @contextmanager
    def database(self) -> Iterator[Database]:
        database = open_database(self.data, self.database_url)
        try:
            yield database
        finally:
            database.close()


@dataclass
class Server:
    url: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    @property
    def rss(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)


class Peak:
    """The most memory that a server had while this was open, in bytes."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = self.most = server.rss

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, self._server.rss)


def tiny(folder: Path) -> Path:
    path = folder / "tiny.gguf"
    write_gguf(path, tiny_model("llama", max_seq_len=2048), block_type=BlockType.Q8_0)
    return path
