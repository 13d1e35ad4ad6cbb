"""A whole store in one file, from either database into either.

    cierzo-backup.json   format, schema revision, rows per table
    tables/NAME.jsonl    a row per line; bytes as {"$bytes": base64}
    files/ID             the bytes of each file that has a row
    …/…                  the data folder's folders that have no rows, as they are

The rows are of one moment. Files are read after them: one that was deleted meanwhile is left out,
its row as well; one whose row is still there must have its bytes.
"""

from __future__ import annotations

import base64
import filecmp
import io
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from gzip import BadGzipFile
from pathlib import Path, PurePosixPath
from typing import IO, Any

from sqlalchemy import Connection, MetaData, Table, delete, func, insert, inspect, select

from cierzo.errors import StoreError
from cierzo.ids import now_ms
from cierzo.store import files
from cierzo.store.db import Database
from cierzo.store.migrations import current_revision, migrate, revisions
from cierzo.store.tables import metadata

FORMAT = 1
MANIFEST = "cierzo-backup.json"
CHUNK_ROWS = 1000
STAGING = "restoring-"


def back_up(
    database: Database, data_dir: Path, target: Path, also: Sequence[str] = ()
) -> dict[str, int]:
    """Write the store to `target`, which appears whole or not at all; how much there is of what.

    `also` are folders of the data folder that belong to the store without being in the database.

    Raises StoreError for a file whose bytes are not in the data folder.
    """
    part = target.with_name(target.name + ".part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                counts = _write(archive, database, data_dir, target.parent)
                counts |= {name: _add_folder(archive, data_dir, name) for name in also}
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return counts


def restore(
    database: Database, data_dir: Path, source: Path, also: Sequence[str] = ()
) -> dict[str, int]:
    """Fill an empty store from a backup, then bring it to this Cierzo's schema; how much there is
    of what. `also` as in `back_up`.

    Raises StoreError for a store that is not empty, and a file that is no backup.
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with (
            tarfile.open(source) as archive,
            tempfile.TemporaryDirectory(prefix=STAGING, dir=data_dir) as staged,
        ):
            members = _members(archive)  # to the end, before anything is written
            manifest = _read_manifest(archive)
            database.read(_refuse_filled)
            _extract(archive, _below(members, files.FOLDER, *also), Path(staged))
            for name in (files.FOLDER, *also):
                _refuse_other(Path(staged) / name, data_dir / name, name in also)
            if database.read(current_revision) is None:
                migrate(database, manifest["schema"])
            with ExitStack() as undo:

                def fill(connection: Connection) -> None:
                    _refuse_filled(connection)
                    names = {member.name for member in _below(members, files.FOLDER)}
                    _read_tables(connection, archive, manifest, names)
                    # Before the commit: a row that is there must find its file.
                    for name in (files.FOLDER, *also):
                        _place(Path(staged) / name, data_dir / name, undo)

                database.write(fill)
                undo.pop_all()
        for left in data_dir.glob(f"{STAGING}*"):  # by restores that were killed
            shutil.rmtree(left, ignore_errors=True)
    except (tarfile.TarError, EOFError, BadGzipFile, ValueError, KeyError, zlib.error) as error:
        raise StoreError(f"{source} is no backup of Cierzo, or a damaged one: {error}") from error
    except OSError as error:
        raise StoreError(f"{source} cannot be restored into {data_dir}: {error}") from error
    migrate(database)
    counts: dict[str, int] = manifest["tables"]
    return counts | {name: len(_below(members, name)) for name in also}


def _write(
    archive: tarfile.TarFile, database: Database, data_dir: Path, room: Path
) -> dict[str, int]:
    """Files, tables and manifest; the rows per table."""
    with ExitStack() as opened:
        # In `room` without a name: gone with the process, however that ends.
        tables = {
            name: opened.enter_context(tempfile.TemporaryFile(dir=room)) for name in metadata.tables
        }
        kept = opened.enter_context(tempfile.TemporaryFile(dir=room))
        schema, counts = database.read(lambda connection: _dump(connection, tables))
        tables[files.TABLE].seek(0)
        for line in tables[files.TABLE]:
            if _add_bytes(archive, database, data_dir, json.loads(line)["id"]):
                kept.write(line)
            else:
                counts[files.TABLE] -= 1
        for name, table in (tables | {files.TABLE: kept}).items():
            _add(archive, f"tables/{name}.jsonl", table)
    manifest = {"format": FORMAT, "schema": schema, "created_at_ms": now_ms(), "tables": counts}
    _add(archive, MANIFEST, io.BytesIO(json.dumps(manifest, indent=2).encode()))
    return counts


def _dump(
    connection: Connection, tables: Mapping[str, IO[bytes]]
) -> tuple[str | None, dict[str, int]]:
    """The schema's revision, and how many rows of each table there are now."""
    found = metadata.sorted_tables
    counts = {table.name: _write_rows(connection, table, tables[table.name]) for table in found}
    return current_revision(connection), counts


def _write_rows(connection: Connection, table: Table, file: IO[bytes]) -> int:
    count = 0
    for row in connection.execute(select(table).execution_options(yield_per=CHUNK_ROWS)):
        fields = {name: _plain(value) for name, value in row._mapping.items()}
        file.write(json.dumps(fields).encode() + b"\n")
        count += 1
    return count


def _add_bytes(archive: tarfile.TarFile, database: Database, data_dir: Path, file_id: str) -> bool:
    """False for a file that was deleted meanwhile. Raises StoreError where bytes are missing."""
    file = files.open_bytes(data_dir, file_id)
    if file is None:
        if files.find_file(database, file_id) is None:
            return False
        raise StoreError(
            f"the bytes of file {file_id} are not in the data folder {data_dir}; name the folder"
            " of the servers on this database (--data), or delete the file"
        )
    with file:
        _add(archive, f"{files.FOLDER}/{file_id}", file)
    return True


def _add_folder(archive: tarfile.TarFile, data_dir: Path, name: str) -> int:
    """All that is finished in it; how many files that are."""
    count = 0
    for path in _finished(data_dir / name):
        with suppress(FileNotFoundError), open(data_dir / name / path, "rb") as file:
            _add(archive, f"{name}/{path}", file)
            count += 1
    return count


def _finished(folder: Path) -> list[Path]:
    """The files below a folder but those that are still being written."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".part")
    return sorted(path.relative_to(folder) for path in paths)


def _members(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Its files. Raises StoreError for a name or a kind that is in no backup."""
    members = archive.getmembers()
    for member in members:
        path = PurePosixPath(member.name)
        folder, _, rest = member.name.partition("/")
        if (
            not (member.isfile() or member.isdir())
            or path.is_absolute()
            or ".." in path.parts
            or (folder == files.FOLDER and member.isfile() and not files.is_id(rest))
        ):
            what = f"the backup is damaged or hostile: {member.name[:100]!r} is no file of a store"
            raise StoreError(f"{what}; restore one that `cierzo backup` wrote")
    return [member for member in members if member.isfile()]


def _below(members: Sequence[tarfile.TarInfo], *folders: str) -> list[tarfile.TarInfo]:
    return [member for member in members if member.name.partition("/")[0] in folders]


def _extract(archive: tarfile.TarFile, members: Sequence[tarfile.TarInfo], folder: Path) -> None:
    """Members that `_members` let pass: tarfile's own filters are not in every Python 3.11."""
    for member in members:
        path = folder / member.name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            shutil.copyfileobj(_open(archive, member.name), file)


def _refuse_other(restored: Path, there: Path, is_whole: bool) -> None:
    """Raise StoreError where files would be lost or, in a folder that is a whole, mixed: what a
    restore left that was cut off may lie there. Where nothing is restored anything may."""
    ours = set(_finished(restored))
    for path in _finished(there) if ours else ():
        is_same = path in ours and filecmp.cmp(restored / path, there / path, shallow=False)
        if not is_same and (is_whole or path in ours):
            where = f"{there} is not empty, and {path} not of this backup"
            raise StoreError(f"{where}; restore into a new data folder")


def _place(restored: Path, there: Path, undo: ExitStack) -> None:
    """Move in what is not there. Idempotent."""
    for path in _finished(restored):
        target = there / path
        if not target.is_file():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (restored / path).replace(target)
            undo.callback(target.unlink)


def _plain(value: Any) -> Any:
    return {"$bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _add(archive: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = file.seek(0, io.SEEK_END)
    member.mode = 0o600
    file.seek(0)
    archive.addfile(member, file)


def _open(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is a folder")
    return file


def _read_manifest(archive: tarfile.TarFile) -> dict[str, Any]:
    manifest: dict[str, Any] = json.load(_open(archive, MANIFEST))
    if manifest["format"] != FORMAT or manifest["schema"] not in revisions():
        raise StoreError("the backup is of a newer Cierzo; restore it with that one")
    return manifest


def _refuse_filled(connection: Connection) -> None:
    """Raise StoreError for a database that is in use: one with rows, of whatever schema."""
    made = {"organisations": 1, "workspaces": 1}  # by the first migration
    there = inspect(connection).get_table_names()
    for table in (metadata.tables[name] for name in there if name in metadata.tables):
        count = connection.scalar(select(func.count()).select_from(table))
        if count != made.get(table.name, 0):
            raise StoreError("the store is not empty; restore into a new data folder")


def _read_tables(
    connection: Connection,
    archive: tarfile.TarFile,
    manifest: dict[str, Any],
    names: Collection[str],
) -> None:
    if current_revision(connection) != manifest["schema"]:
        what = f"the backup has schema {manifest['schema']} and the database a later one"
        raise StoreError(f"{what}; restore into a new data folder")
    there = MetaData()
    there.reflect(connection)
    tables = [table for table in there.sorted_tables if table.name in manifest["tables"]]
    for table in reversed(tables):
        connection.execute(delete(table))
    for table in tables:
        count = 0
        for rows in _chunks(_open(archive, f"tables/{table.name}.jsonl")):
            if table.name == files.TABLE:
                _check_files(rows, names)
            connection.execute(insert(table), rows)
            count += len(rows)
        if count != manifest["tables"][table.name]:
            raise StoreError(f"the backup's table {table.name} is cut short")


def _check_files(rows: Sequence[Mapping[str, Any]], there: Collection[str]) -> None:
    """Each of them has its bytes, under an id that is a path of the data folder later on."""
    for row in rows:
        if not files.is_id(row["id"]):
            raise StoreError(
                f"the backup is damaged or hostile: a file is called {row['id'][:100]!r} in it;"
                " restore one that `cierzo backup` wrote"
            )
        if f"{files.FOLDER}/{row['id']}" not in there:
            raise StoreError(
                f"the backup is damaged: the bytes of file {row['id']} are not in it; restore"
                " one that `cierzo backup` wrote"
            )


def _chunks(file: IO[bytes]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for line in file:
        fields: dict[str, Any] = json.loads(line)
        rows.append({name: _restored(value) for name, value in fields.items()})
        if len(rows) == CHUNK_ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"$bytes"}:
        return base64.b64decode(value["$bytes"])
    return value
