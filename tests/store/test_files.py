"""A file is there or it is not, wherever a crash falls."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from cierzo import ids
from cierzo.errors import StoreFullError, StoreNotFoundError, StoreUnavailableError
from cierzo.ids import now_ms
from cierzo.store import open_database
from cierzo.store.db import Database
from cierzo.store.files import INTERNAL, FileRecord, FileStore, Filter
from cierzo.store.tables import DEFAULT_ID

ALL = Filter()


def record(file_id: str, **fields: Any) -> FileRecord:
    values = {"filename": "a.txt", "purpose": "ocr", "sample_type": "ocr_input", "source": "upload"}
    more = {"mimetype": "text/plain", "size_nbytes": 4, "num_lines": None}
    made: dict[str, Any] = {"workspace_id": DEFAULT_ID, "created_at_ms": now_ms(), **values, **more}
    return FileRecord(file_id, **made | fields)


def put(store: FileStore, data: bytes = b"data", **fields: Any) -> FileRecord:
    with store.receive() as incoming:
        incoming.write(data)
        made = record(incoming.id, **fields)
        store.keep(incoming, made)
    return made


def test_kept_read_and_deleted(database: Database, tmp_path: Path) -> None:
    store = FileStore(database, tmp_path)
    made = put(store)
    assert store.get(DEFAULT_ID, made.id) == made
    with store.open(made) as file:
        store.delete(made)
        assert file.read() == b"data"  # who reads may read on
    for act in (store.delete, store.open):
        with pytest.raises(StoreNotFoundError):
            act(made)
    assert store.find(made.id) is None and not list(tmp_path.glob("files*/*"))


def test_internal_files_are_not_shown(database: Database, tmp_path: Path) -> None:
    store = FileStore(database, tmp_path)
    made = put(store, visibility=INTERNAL)
    assert store.list(DEFAULT_ID, ALL, 0, 10) == ([], 0)
    with pytest.raises(StoreNotFoundError):
        store.get(DEFAULT_ID, made.id)
    assert store.find(made.id) == made


def test_lines_are_counted_as_they_come(database: Database, tmp_path: Path) -> None:
    store = FileStore(database, tmp_path)
    with store.receive() as incoming:
        for piece, count in ((b"", 0), (b"a", 1), (b"b\nc", 2), (b"\n", 2), (b"\n\n", 4)):
            incoming.write(piece)
            assert incoming.num_lines == count


def test_what_is_left_half_way_is_gone(database: Database, tmp_path: Path) -> None:
    store = FileStore(database, tmp_path)
    with pytest.raises(RuntimeError), store.receive() as incoming:
        incoming.write(b"data")
        raise RuntimeError
    assert not list(store.transit.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_that_fails_for_want_of_room(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = FileStore(database, tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(number, "no room")

    monkeypatch.setattr("cierzo.store.files.os.fsync", full)
    with pytest.raises(StoreFullError, match="no room"):
        put(store)
    assert not list(store.transit.iterdir())
    assert store.list(DEFAULT_ID, ALL, 0, 10) == ([], 0)


def test_a_write_that_is_cut_short_is_not_taken_for_whole(
    database: Database, tmp_path: Path
) -> None:
    """The last write onto a full disk takes a part and says so; only the next one fails."""
    store = FileStore(database, tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with store.receive() as incoming:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
        try:
            with pytest.raises(StoreFullError, match="no room"):
                incoming.write(bytes(1_500_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(store.transit.iterdir())


@pytest.mark.parametrize("has_row", [True, False])
def test_a_start_decides_by_the_row(database: Database, tmp_path: Path, has_row: bool) -> None:
    """As after a crash between an upload's steps, or a deletion's."""
    store = FileStore(database, tmp_path)
    made = put(store)
    if not has_row:
        store.delete(made)
    (store.folder / made.id).unlink(missing_ok=True)
    (store.transit / made.id).write_bytes(b"data")
    if has_row:
        with store.open(made) as file:  # a reader finds it there, too
            assert file.read() == b"data"
    FileStore(database, tmp_path)
    assert (store.folder / made.id).exists() == has_row
    assert not list(store.transit.iterdir())


def test_a_start_leaves_what_another_server_writes(database: Database, tmp_path: Path) -> None:
    store = FileStore(database, tmp_path)
    with store.receive() as incoming:
        incoming.write(b"data")
        FileStore(database, tmp_path)
        made = record(incoming.id)
        store.keep(incoming, made)
    with store.open(made) as file:
        assert file.read() == b"data"


def test_bytes_that_lie_in_another_servers_folder(database: Database, tmp_path: Path) -> None:
    """Such a file is not gone: whoever has its folder can answer."""
    made = put(FileStore(database, tmp_path / "one"))
    other = FileStore(database, tmp_path / "other")
    with pytest.raises(StoreUnavailableError, match="share one folder"):
        other.open(made)
    other.delete(made)
    with pytest.raises(StoreNotFoundError):
        other.open(made)


def test_a_claim_is_ones_alone(database: Database, tmp_path: Path) -> None:
    store, other = FileStore(database, tmp_path), FileStore(database, tmp_path)
    with store.claim("a") as is_ours, other.claim("a") as is_theirs, other.claim("b") as is_free:
        assert (is_ours, is_theirs, is_free) == (True, False, True)
    with other.claim("a") as is_theirs:
        assert is_theirs


def test_the_files_of_another_database_are_left_alone(tmp_path: Path, database: Database) -> None:
    """A wrong CIERZO_DATABASE_URL must not cost anybody's files."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a-file").touch()
    FileStore(database, tmp_path)
    assert (tmp_path / "files" / "a-file").exists()


PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from cierzo.store import open_database
    from cierzo.store.files import FileStore
    from tests.store.test_files import put

    database = open_database(Path(sys.argv[1]), None)
    store = FileStore(database, Path(sys.argv[1]))
    while True:
        made = put(store, b"data" * 1000)
        print("made", made.id, flush=True)
        if made.id[-1] in "02468ace":
            print("going", made.id, flush=True)
            store.delete(made)
            print("gone", made.id, flush=True)
    """
)


@pytest.mark.parametrize("num_lines", [2, 7, 20, 41])
def test_a_killed_process(tmp_path: Path, num_lines: int) -> None:
    from cierzo.store import open_database

    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(num_lines)]
        process.kill()
        lines += process.stdout.readlines()
    said = {line.split()[1]: line.split()[0] for line in lines if line.endswith("\n")}
    database = open_database(tmp_path, None)
    store = FileStore(database, tmp_path)
    for file_id, word in said.items():
        found = store.find(file_id)
        if word != "going":
            assert (found is not None) == (word == "made")
        if found is not None:
            with store.open(found) as file:
                assert file.read() == b"data" * 1000
    _, total = store.list(DEFAULT_ID, ALL, 0, 1)
    assert total == len(list(store.folder.iterdir()))
    assert not list(store.transit.iterdir())
    database.close()


def test_new_files_are_newest_after_a_restart_with_the_clock_set_back(
    url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = url.render_as_string(hide_password=False)
    made = []
    for ahead_ns in (10**15, 0):
        real_ns = time.time_ns
        monkeypatch.setattr(ids, "_ticks", ids._Ticks())  # as in a new process
        with monkeypatch.context() as patch, closing(open_database(tmp_path, where)) as database:
            patch.setattr(time, "time_ns", lambda real_ns=real_ns, by=ahead_ns: real_ns() + by)
            store = FileStore(database, tmp_path)
            made.append(put(store).id)
            listed, _ = store.list(DEFAULT_ID, ALL, 0, 10)
            assert [file.id for file in listed] == made[::-1]
