"""The database: transactions that may be run again, and patience while it is away.

`read` and `write` take a function of a connection and run it in one transaction. When the
connection breaks, or another process holds the lock, the whole function is run again, and
a commit whose answer was lost looks like any other failure. So such a function chooses its
ids outside and is written to be harmless the second time (`INSERT … ON CONFLICT DO
NOTHING`, `UPDATE … WHERE` the state is still the old one). Nothing is held between two
transactions, so a process may be killed at any moment.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from cierzo.errors import SettingError, StoreUnavailableError

PATIENCE_S = 10.0
"""How long a transaction waits for a database that is away or locked."""

IMPATIENT_S = 2.0
"""How long after that nobody else waits."""

FILE_NAME = "cierzo.db"

# SQLite's primary result codes for what may pass: busy, locked, i/o error, disk full, cannot open.
_PASSING_SQLITE_CODES = frozenset((5, 6, 10, 13, 14))

T = TypeVar("T")
P = ParamSpec("P")


class Database:
    """One database, for every thread of this process. Blocking; `in_thread` for an event loop."""

    def __init__(self, url: URL, *, patience_s: float = PATIENCE_S) -> None:
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._where = url.render_as_string(hide_password=True)
        self._patience_s = patience_s
        self._engine = _sqlite_engine(url) if self.is_sqlite else _postgresql_engine(url)
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="cierzo-store")
        self._impatient_until_s = 0.0

    def read(self, work: Callable[[Connection], T]) -> T:
        """`work`'s result; all it reads is of one moment. Raises StoreUnavailableError."""
        isolation = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        return self._run(work, {"begin": "DEFERRED", **isolation})

    def write(self, work: Callable[[Connection], T]) -> T:
        """`work`'s result, committed to the disk. Raises StoreUnavailableError."""
        return self._run(work, {"begin": "IMMEDIATE"})

    async def in_thread(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """`function`, which uses this database, off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*arguments, **named))

    def close(self) -> None:
        """Wait for what runs `in_thread`, then let the connections go."""
        self._threads.shutdown()
        self._engine.dispose()

    def _run(self, work: Callable[[Connection], T], options: dict[str, Any]) -> T:
        started_s = time.monotonic()
        # Who comes right after others have waited in vain does not wait as well: they would
        # stand in line for the threads.
        is_patient = started_s >= self._impatient_until_s
        deadline_s = started_s + (self._patience_s if is_patient else 0.0)
        pause_s = 0.02
        while True:
            try:
                with self._engine.connect() as connection:
                    connection.execution_options(**options)
                    with connection.begin():
                        return work(connection)
            except DBAPIError as error:
                if not _may_pass(error):
                    raise
                if time.monotonic() + pause_s > deadline_s:
                    self._impatient_until_s = time.monotonic() + IMPATIENT_S
                    raise StoreUnavailableError(
                        f"the database {self._where} does not answer: {_reason(error)}"
                    ) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)


def database_url(data_dir: Path, url: str | None) -> URL:
    """The URL given, or that of the file in the data folder, which is made if need be.

    Raises SettingError, without the URL's password.
    """
    if url is None:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = data_dir / FILE_NAME
        path.touch(mode=0o600)
        return URL.create("sqlite", database=str(path))
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingError(
            "CIERZO_DATABASE_URL is no database URL; it looks like"
            " postgresql://user:password@host/database or sqlite:///path"
        ) from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite")
    raise SettingError(
        f"CIERZO_DATABASE_URL names {parsed.render_as_string(hide_password=True)}, and the store"
        " is a PostgreSQL database or an SQLite file"
    )


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": 1.0})

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # else sqlite3 opens transactions of its own, and late
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes the lock first: a reader that turns writer cannot wait for it.
        mode = connection.get_execution_options().get("begin", "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def _postgresql_engine(url: URL) -> Engine:
    try:
        return create_engine(
            url, hide_parameters=True, pool_pre_ping=True, connect_args={"connect_timeout": 5}
        )
    except (ModuleNotFoundError, NoSuchModuleError):
        raise SettingError(
            "PostgreSQL needs its driver: install it with `pip install cierzo[postgres]`"
        ) from None


def _may_pass(error: DBAPIError) -> bool:
    """True for a database that is away, locked or full; False for a mistake of ours."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _PASSING_SQLITE_CODES
    return error.connection_invalidated or isinstance(error, OperationalError)


def _reason(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else "no reason given"
