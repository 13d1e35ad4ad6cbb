"""A real PostgreSQL server of the test run's own, in a folder of its own, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "cierzo"
PORT = 5432  # a file name in the server's own folder: it listens on no network


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of an empty server, whose databases a test may create; stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="cierzo-pg-"))
    server = Postgres(folder)
    try:
        server.create()
        server.start()
        yield server.url("postgres")
    finally:
        server.stop()
        shutil.rmtree(folder)


class Postgres:
    """One server, which a test may stop and start. Not as root: it refuses that."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._user = "postgres" if os.getuid() == 0 else None
        if self._user is not None:
            os.chown(folder, pwd.getpwnam(self._user).pw_uid, -1)

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.folder}&port={PORT}"

    def create(self) -> None:
        self._run("initdb", "-D", str(self._data), "-U", USER, "-A", "trust", "-E", "UTF8", "-N")

    def start(self) -> None:
        options = f"-k {self.folder} -p {PORT} -c listen_addresses= -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self._data), "-l", log, "-o", options)

    def stop(self, mode: str = "immediate") -> None:
        if (self._data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "-w", "-D", str(self._data), "-m", mode)

    def _run(self, program: str, *arguments: str) -> None:
        # A file, not a pipe: the server that pg_ctl leaves behind would hold a pipe open.
        output = self.folder / "out"
        with output.open("w") as file:
            finished = subprocess.run(
                [_program(program), *arguments],
                user=self._user,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        assert finished.returncode == 0, output.read_text()


def _program(name: str) -> str:
    found = [
        *Path("/usr/lib/postgresql").glob(f"*/bin/{name}"),
        *filter(None, [shutil.which(name)]),
    ]
    assert found, f"no {name} here: install PostgreSQL's server (on Debian: apt install postgresql)"
    return str(found[0])
