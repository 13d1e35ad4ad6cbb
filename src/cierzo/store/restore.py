"""Filling an empty store from a backup: what `backup.py` describes and writes.

A backup may be damaged or hostile: nothing is written outside the data folder, nothing that is
there is lost, and a restore that fails leaves the store empty.
"""

from __future__ import annotations

import base64
import filecmp
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from gzip import BadGzipFile
from pathlib import Path, PurePosixPath
from typing import IO, Any

from sqlalchemy import Connection, MetaData, delete, func, insert, inspect, select

from cierzo.errors import StoreError
from cierzo.store import files
from cierzo.store.backup import CHUNK_ROWS, FORMAT, MANIFEST, finished
from cierzo.store.db import Database
from cierzo.store.migrations import current_revision, migrate, revisions
from cierzo.store.tables import metadata

STAGING = "restoring-"


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
    ours = set(finished(restored))
    for path in finished(there) if ours else ():
        is_same = path in ours and filecmp.cmp(restored / path, there / path, shallow=False)
        if not is_same and (is_whole or path in ours):
            where = f"{there} is not empty, and {path} not of this backup"
            raise StoreError(f"{where}; restore into a new data folder")


def _place(restored: Path, there: Path, undo: ExitStack) -> None:
    """Move in what is not there. Idempotent."""
    for path in finished(restored):
        target = there / path
        if not target.is_file():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            (restored / path).replace(target)
            undo.callback(target.unlink)


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
