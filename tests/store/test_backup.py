"""A backup holds all of a store, and either database takes it."""

from __future__ import annotations

import io
import json
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, select

from cierzo.cli import run
from cierzo.errors import StoreError
from cierzo.ids import now_ms
from cierzo.store import api_keys, ledger, open_database, pricing, workspaces
from cierzo.store.backup import MANIFEST, back_up
from cierzo.store.db import Database, database_url
from cierzo.store.files import FileStore
from cierzo.store.ledger import Period
from cierzo.store.limits import Limits
from cierzo.store.migrations import migrate, revisions
from cierzo.store.pricing import Price
from cierzo.store.restore import restore
from cierzo.store.tables import DEFAULT_ID, metadata
from tests.store.test_files import put as put_file
from tests.store.test_ledger import put, record


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Database]:
    """An empty SQLite database: of the two parameters one crosses over."""
    database = Database(database_url(tmp_path / "other", None))
    yield database
    database.close()


def contents(database: Database) -> dict[str, list[Any]]:
    def read(connection: Connection) -> dict[str, list[Any]]:
        return {
            table.name: sorted(tuple(map(repr, row)) for row in connection.execute(select(table)))
            for table in metadata.sorted_tables
        }

    return database.read(read)


def fill(database: Database) -> str:
    """Returns the spelling of a key."""
    team = workspaces.create(database, "team", Limits(max_concurrent=2))
    key, spelling = api_keys.create(database, "ci", team.id, models=["tiny"])
    api_keys.create(database, "any", DEFAULT_ID, is_admin=True)
    pricing.set_price(database, "tiny", Price(1, 2), now_ms())
    put(database, *(record(f"{n}", key_id=key.id, workspace_id=team.id) for n in range(1500)))
    return spelling


def test_what_is_restored_is_what_there_was(
    database: Database, other: Database, tmp_path: Path
) -> None:
    spelling = fill(database)
    source, target = tmp_path / "source", tmp_path / "other"
    upload = put_file(FileStore(database, source), b"upload")
    counts = back_up(database, source, tmp_path / "backup")
    assert counts["usage_records"] == 1500 and counts["workspaces"] == 2
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o600
    assert restore(other, target, tmp_path / "backup") == counts
    assert contents(other) == contents(database)
    key = api_keys.authenticate(other, spelling)
    assert key is not None and key.models == ("tiny",)
    with FileStore(other, target).open(upload) as file:
        assert file.read() == b"upload"
    assert not list(tmp_path.glob("*.part"))


def after_the_rows(
    monkeypatch: pytest.MonkeyPatch, database: Database, act: Callable[[], None]
) -> None:
    """`act` when the backup has read the database, before it reads a file."""
    read = database.read

    def first(work: Callable[[Connection], Any]) -> Any:
        result = read(work)
        monkeypatch.setattr(database, "read", read)
        act()
        return result

    monkeypatch.setattr(database, "read", first)


def test_files_that_come_and_go_meanwhile(
    database: Database, other: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a row's commit and its file's last move, and after the rows' moment."""
    source, target = tmp_path / "source", tmp_path / "other"
    store = FileStore(database, source)
    stays, lands, goes = (put_file(store, name) for name in (b"stays", b"lands", b"goes"))
    (store.folder / lands.id).replace(store.transit / lands.id)
    after_the_rows(monkeypatch, database, lambda: store.delete(goes))
    assert back_up(database, source, tmp_path / "backup")["files"] == 2
    restore(other, target, tmp_path / "backup")
    restored = FileStore(other, target)
    assert restored.find(goes.id) is None
    for file, content in ((stays, b"stays"), (lands, b"lands")):
        with restored.open(file) as opened:
            assert opened.read() == content


def test_bytes_that_are_not_there(database: Database, tmp_path: Path) -> None:
    """Of another data folder, or lost: a backup without them is none."""
    store = FileStore(database, tmp_path / "source")
    made = put_file(store)
    with pytest.raises(StoreError, match=f"{made.id} are not in the data folder .*wrong.*--data"):
        back_up(database, tmp_path / "wrong", tmp_path / "backup")
    (store.folder / made.id).unlink()
    with pytest.raises(StoreError, match=made.id):
        back_up(database, tmp_path / "source", tmp_path / "backup")
    assert not list(tmp_path.glob("backup*"))


def rewritten(whole: Path, to: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """A backup with other contents; None leaves a file out."""
    with tarfile.open(whole) as good, tarfile.open(to, "w") as bad:
        for member in good.getmembers():
            file = good.extractfile(member)
            assert file is not None
            content = change(member.name, file.read())
            if content is not None:
                member.size = len(content)
                bad.addfile(member, io.BytesIO(content))


def test_folders_without_rows(database: Database, other: Database, tmp_path: Path) -> None:
    """They are there when the rows are, and replace nothing."""
    source, target, file = tmp_path / "source", tmp_path / "other", tmp_path / "backup"
    for name in ("a.json", "team/b.json", "team/c.part"):
        (source / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "made" / name).write_text(name)
    fill(database)
    assert back_up(database, source, file, ["made"])["made"] == 2
    cut = "tables/usage_records.jsonl"
    rewritten(file, tmp_path / "cut", lambda name, rows: b"" if name == cut else rows)
    with pytest.raises(StoreError, match="cut short"):
        restore(other, target, tmp_path / "cut", ["made"])
    assert not list(target.glob("made/*")) and not list(target.glob("restoring-*"))
    (target / "made").mkdir()
    (target / "made" / "a.json").write_text("another")
    with pytest.raises(StoreError, match="made is not empty"):
        restore(other, target, file, ["made"])
    (target / "made" / "a.json").unlink()
    assert restore(other, target, file, ["made"])["made"] == 2
    made = {str(path.relative_to(target / "made")) for path in target.glob("made/**/*.*")}
    assert made == {"a.json", "team/b.json"}
    assert (target / "made" / "team" / "b.json").read_text() == "team/b.json"
    assert contents(other) == contents(database)


def test_and_back_again(database: Database, other: Database, tmp_path: Path) -> None:
    migrate(other)
    fill(other)
    back_up(other, tmp_path, tmp_path / "backup")
    restore(database, tmp_path / "empty", tmp_path / "backup")
    assert contents(other) == contents(database)
    put(database, record("later"))
    assert ledger.total(database, Period()).requests == 1501


def test_a_store_in_use_is_not_overwritten(database: Database, tmp_path: Path) -> None:
    back_up(database, tmp_path, tmp_path / "backup")
    put(database, record("a"))
    with pytest.raises(StoreError, match="not empty"):
        restore(database, tmp_path, tmp_path / "backup")
    assert ledger.total(database, Period()).requests == 1


def test_a_damaged_backup_leaves_an_empty_store(
    database: Database, other: Database, tmp_path: Path
) -> None:
    fill(database)
    back_up(database, tmp_path, tmp_path / "backup")
    whole = (tmp_path / "backup").read_bytes()
    for damaged in (b"", b"nothing", whole[: len(whole) // 2], whole[:-60]):
        (tmp_path / "backup").write_bytes(damaged)
        with pytest.raises(StoreError, match="is no backup of Cierzo, or a damaged one"):
            restore(other, tmp_path / "other", tmp_path / "backup")
    (tmp_path / "backup").write_bytes(whole)
    restore(other, tmp_path / "other", tmp_path / "backup")
    assert contents(other) == contents(database)


def test_a_refused_restore_leaves_no_files(
    database: Database, other: Database, tmp_path: Path
) -> None:
    source, target, file = tmp_path / "source", tmp_path / "other", tmp_path / "backup"
    made = put_file(FileStore(database, source), b"whole")
    put(database, record("a"))
    back_up(database, source, file)
    cut = "tables/usage_records.jsonl"
    rewritten(file, tmp_path / "cut", lambda name, rows: b"" if name == cut else rows)
    with pytest.raises(StoreError, match="cut short"):
        restore(other, target, tmp_path / "cut")
    assert not list(target.glob("files/*"))
    there = target / "files" / made.id
    there.parent.mkdir(exist_ok=True)
    there.write_bytes(b"another")
    with pytest.raises(StoreError, match=f"not empty, and {made.id} not of this"):
        restore(other, target, file)
    assert there.read_bytes() == b"another"
    there.write_bytes(b"whole")
    restore(other, target, file)
    with FileStore(other, target).open(made) as opened:
        assert opened.read() == b"whole"


def test_what_was_moved_in_is_removed_when_the_rest_cannot(
    database: Database, other: Database, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "other"
    put_file(FileStore(database, source))
    (source / "made" / "team").mkdir(parents=True)
    (source / "made" / "team" / "a.json").write_text("a")
    back_up(database, source, tmp_path / "backup", ["made"])
    (target / "made").mkdir(parents=True)
    (target / "made" / "team").symlink_to("nowhere")
    with pytest.raises(StoreError, match="cannot be restored into"):
        restore(other, target, tmp_path / "backup", ["made"])
    assert not list(target.glob("files/*"))
    (target / "made" / "team").unlink()
    (target / "made" / "team").mkdir()  # empty, as a deleted workspace's
    assert restore(other, target, tmp_path / "backup", ["made"])["made"] == 1
    assert (target / "made" / "team" / "a.json").read_text() == "a"


def test_a_folder_that_the_backup_has_not_stays(
    database: Database, other: Database, tmp_path: Path
) -> None:
    back_up(database, tmp_path / "source", tmp_path / "backup", ["made"])
    (tmp_path / "other" / "made").mkdir(parents=True)
    (tmp_path / "other" / "made" / "a.json").write_text("a")
    assert restore(other, tmp_path / "other", tmp_path / "backup", ["made"])["made"] == 0
    assert (tmp_path / "other" / "made" / "a.json").read_text() == "a"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("files/../../escaped", tarfile.REGTYPE),
        ("files/../made/escaped", tarfile.REGTYPE),
        ("files/escaped", tarfile.REGTYPE),
        ("/escaped", tarfile.REGTYPE),
        ("made/escaped", tarfile.SYMTYPE),
        ("made/escaped", tarfile.LNKTYPE),
        ("made/escaped", tarfile.FIFOTYPE),
    ],
)
def test_a_backup_writes_nowhere_else(tmp_path: Path, name: str, kind: bytes) -> None:
    with closing(open_database(tmp_path / "source", None)) as database:
        back_up(database, tmp_path / "source", tmp_path / "good")
    with tarfile.open(tmp_path / "good") as good, tarfile.open(tmp_path / "bad", "w") as bad:
        for member in good.getmembers():
            bad.addfile(member, good.extractfile(member))
        odd = tarfile.TarInfo(name)
        odd.type, odd.linkname = kind, "cierzo-backup.json"
        bad.addfile(odd)
    target = tmp_path / "other" / "data"
    with (
        closing(Database(database_url(target, None))) as other,
        pytest.raises(StoreError, match="damaged or hostile: .*escaped"),
    ):
        restore(other, target, tmp_path / "bad", ["made"])
    assert not list(tmp_path.rglob("escaped"))


def test_rows_name_no_paths(database: Database, other: Database, tmp_path: Path) -> None:
    made = put_file(FileStore(database, tmp_path / "a"))
    back_up(database, tmp_path / "a", tmp_path / "whole")

    def change(name: str, content: bytes) -> bytes:
        is_rows = name == "tables/files.jsonl"
        return content.replace(made.id.encode(), b"../../escaped") if is_rows else content

    rewritten(tmp_path / "whole", tmp_path / "bad", change)
    with pytest.raises(StoreError, match="a file is called '../../escaped'"):
        restore(other, tmp_path / "b", tmp_path / "bad")


def test_rows_without_bytes(database: Database, other: Database, tmp_path: Path) -> None:
    made = put_file(FileStore(database, tmp_path / "a"))
    back_up(database, tmp_path / "a", tmp_path / "whole")
    rewritten(
        tmp_path / "whole",
        tmp_path / "bad",
        lambda name, content: None if name == f"files/{made.id}" else content,
    )
    with pytest.raises(StoreError, match=f"the bytes of file {made.id} are not in it"):
        restore(other, tmp_path / "b", tmp_path / "bad")


@pytest.mark.parametrize("revision", revisions())
def test_a_backup_of_an_older_schema(
    database: Database, other: Database, tmp_path: Path, revision: str
) -> None:
    """As an older Cierzo wrote it: without the tables and columns that came later."""
    back_up(database, tmp_path / "a", tmp_path / "whole")
    there = MetaData()
    with closing(Database(database_url(tmp_path / "c", None))) as old:
        migrate(old, revision)
        old.read(there.reflect)

    def change(name: str, content: bytes) -> bytes | None:
        if name == MANIFEST:
            manifest = json.loads(content)
            tables = {name: count for name, count in manifest["tables"].items() if name in there}
            return json.dumps(manifest | {"schema": revision, "tables": tables}).encode()
        table = there.tables.get(name.removeprefix("tables/").removesuffix(".jsonl"))
        if table is None:
            return None
        rows = [json.loads(line) for line in content.splitlines()]
        kept = [{key: row[key] for key in row if key in table.columns} for row in rows]
        return b"".join(json.dumps(row).encode() + b"\n" for row in kept)

    rewritten(tmp_path / "whole", tmp_path / "old", change)
    restore(other, tmp_path / "b", tmp_path / "old")
    assert contents(other) == contents(database)


def test_what_a_killed_restore_left_goes_with_the_next(
    database: Database, other: Database, tmp_path: Path
) -> None:
    left = tmp_path / "b" / "restoring-abc" / "files"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"...")
    (tmp_path / "b" / "restoring-what").write_bytes(b"no folder")
    back_up(database, tmp_path / "a", tmp_path / "whole")
    restore(other, tmp_path / "b", tmp_path / "whole")
    assert [path.name for path in (tmp_path / "b").glob("restoring-*")] == ["restoring-what"]


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_database(tmp_path / "a", None).close()
    file = str(tmp_path / "backup")
    assert run(["backup", file, "--data", str(tmp_path / "a")]) == 0
    assert "2 workspaces" not in capsys.readouterr().out
    assert run(["backup", file, "--data", str(tmp_path / "a")]) == 1
    assert run(["restore", file, "--data", str(tmp_path / "b")]) == 0
    assert run(["workspaces", "create", "team", "--data", str(tmp_path / "b")]) == 0
    assert run(["restore", file, "--data", str(tmp_path / "b")]) == 1
    assert "not empty" in capsys.readouterr().err
