"""Transactions hold through kills, locks and a database that goes away."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import URL, Connection, insert, select
from sqlalchemy.exc import IntegrityError

from cierzo.errors import SettingError, StoreUnavailableError
from cierzo.store import db, open_database
from cierzo.store.db import FILE_NAME, Database, database_url
from cierzo.store.migrations import migrate
from cierzo.store.tables import DEFAULT_ID, workspaces
from tests.store.postgres import Postgres


def add(connection: Connection, name: str) -> None:
    row = {"id": name, "organisation_id": DEFAULT_ID, "name": name, "created_at_ms": 1}
    connection.execute(insert(workspaces), [row])


def names(database: Database) -> set[str]:
    found = database.read(lambda connection: connection.scalars(select(workspaces.c.name)).all())
    return set(found) - {DEFAULT_ID}


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    def fail(connection: Connection) -> None:
        add(connection, "a")
        raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way"):
        database.write(fail)
    assert names(database) == set()


def test_our_own_mistakes_are_not_waited_out(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.write(lambda connection: add(connection, "a"))
    monkeypatch.setattr(time, "sleep", _no_sleep)
    with pytest.raises(IntegrityError):
        database.write(lambda connection: add(connection, "a"))


def test_references_are_held(database: Database) -> None:
    row = {"id": "a", "organisation_id": "nobody", "name": "a", "created_at_ms": 1}
    with pytest.raises(IntegrityError):
        database.write(lambda connection: connection.execute(insert(workspaces), [row]))


def test_writers_wait_for_each_other(database: Database) -> None:
    def add_all(thread: int) -> None:
        for number in range(20):
            database.write(partial(add, name=f"{thread}-{number}"))

    threads = [threading.Thread(target=add_all, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(database)) == 80


def test_a_read_is_of_one_moment(database: Database) -> None:
    def look_twice(connection: Connection) -> tuple[int, int]:
        before = len(connection.execute(select(workspaces)).all())
        database.write(lambda other: add(other, "meanwhile"))
        return before, len(connection.execute(select(workspaces)).all())

    assert database.read(look_twice) == (1, 1)
    assert names(database) == {"meanwhile"}


KILLED = textwrap.dedent(
    """
    import sys
    from sqlalchemy import make_url
    from cierzo.store.db import Database
    from tests.store.test_db import add

    database = Database(make_url(sys.argv[1]))
    for number in range(100000):
        def add_both(connection):
            add(connection, f"{number}a")
            add(connection, f"{number}b")

        database.write(add_both)
        print(number, flush=True)
    """
)


def test_a_kill_loses_nothing_committed_and_halves_nothing(database: Database, url: URL) -> None:
    command = [sys.executable, "-c", KILLED, url.render_as_string(hide_password=False)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(10)]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.stdout.read().split()]
    kept = names(database)
    assert {f"{number}{half}" for number in told for half in "ab"} <= kept
    assert {name[:-1] for name in kept if name[-1] == "a"} == {
        name[:-1] for name in kept if name[-1] == "b"
    }


def _no_sleep(seconds: float) -> None:
    raise AssertionError("waited")


def test_a_lock_of_another_process_is_waited_out_or_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "IMPATIENT_S", 60.0)
    patient = Database(database_url(tmp_path, None), patience_s=100)
    migrate(patient)
    database = Database(database_url(tmp_path, None), patience_s=0.5)
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    waiting = threading.Timer(0.3, other.execute, ["ROLLBACK"])
    waiting.start()
    patient.write(lambda connection: add(connection, "patient"))
    waiting.join()
    patient.close()
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError, match=r"cierzo\.db does not answer: .*locked"):
        database.write(lambda connection: add(connection, "late"))
    monkeypatch.setattr(time, "sleep", _no_sleep)
    with pytest.raises(StoreUnavailableError):  # who comes next does not wait as well
        database.write(lambda connection: add(connection, "in line"))
    other.close()
    assert names(database) == {"patient"}
    database.close()


def test_a_full_disk_is_reported_and_passes(tmp_path: Path) -> None:
    database = Database(database_url(tmp_path, None), patience_s=0.2)
    migrate(database)

    def fill(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")  # no more than it has now
        for number in range(10_000):
            add(connection, f"{number}")

    with pytest.raises(StoreUnavailableError, match="full"):
        database.write(fill)
    assert names(database) == set()
    database.close()
    roomy = Database(database_url(tmp_path, None))
    roomy.write(lambda connection: add(connection, "a"))
    assert names(roomy) == {"a"}
    roomy.close()


@pytest.fixture
def own_server() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="cierzo-pg-"))
    server = Postgres(folder)
    server.create()
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


def test_a_server_that_goes_away_and_comes_back(own_server: Postgres, tmp_path: Path) -> None:
    database = Database(database_url(tmp_path, own_server.url("postgres")), patience_s=100)
    migrate(database)
    own_server.stop()  # with our connections still in the pool
    back = threading.Timer(0.5, own_server.start)
    back.start()
    database.write(lambda connection: add(connection, "patient"))
    back.join()
    cuts = iter([own_server.stop, own_server.start])

    def cut_once(connection: Connection) -> None:
        add(connection, "twice")
        for act in cuts:  # in the middle of the transaction
            act()

    database.write(cut_once)
    assert names(database) == {"patient", "twice"}
    database.close()
    own_server.stop()
    gone = Database(database_url(tmp_path, own_server.url("postgres")), patience_s=0.1)
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        names(gone)
    gone.close()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    open_database(tmp_path / "new" / "data", None).close()
    folder = tmp_path / "new" / "data"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / FILE_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("url", ["mysql://me:secret@host/db", "nonsense secret", "sqlite://"])
def test_a_bad_url_is_refused_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingError, match="CIERZO_DATABASE_URL") as refusal:
        open_database(tmp_path, url)
    assert "secret" not in str(refusal.value)
