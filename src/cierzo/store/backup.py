"""A whole store in one file, from either database into either.

    cierzo-backup.json   format, schema revision, rows per table
    tables/NAME.jsonl    a row per line; bytes as {"$bytes": base64}
    files/ID             the bytes of each file that has a row
    …/…                  the data folder's folders that have no rows, as they are

The rows are of one moment. Files are read after them: one that was deleted meanwhile is left out,
its row as well.
"""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, MetaData, Table, delete, func, insert, select

from cierzo.errors import StoreError
from cierzo.ids import now_ms
from cierzo.store import files
from cierzo.store.db import Database
from cierzo.store.migrations import current_revision, migrate, revisions
from cierzo.store.tables import metadata

FORMAT = 1
MANIFEST = "cierzo-backup.json"
CHUNK_ROWS = 1000


def back_up(
    database: Database, data_dir: Path, target: Path, also: Sequence[str] = ()
) -> dict[str, int]:
    """Write the store to `target`, which appears whole or not at all; how much there is of what.

    `also` are folders of the data folder that belong to the store without being in the database.
    """
    part = target.with_name(target.name + ".part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            with (
                tarfile.open(fileobj=file, mode="w:gz") as archive,
                tempfile.TemporaryDirectory(prefix="cierzo-backup-") as dumped,
            ):
                counts = _write(archive, database, data_dir, Path(dumped))
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
            tempfile.TemporaryDirectory(prefix="restoring-", dir=data_dir) as staged,
        ):
            members = archive.getmembers()  # to the end, before anything is written
            manifest = _read_manifest(archive)
            if not database.read(_is_empty):
                raise StoreError("the store is not empty; restore into a new data folder")
            folders = [_members(members, name) for name in also]
            archive.extractall(staged, chain.from_iterable(folders), filter="data")
            for name in also:
                _refuse_other(data_dir / name, Path(staged) / name)
            # Files first: a row that is there must find its file.
            archive.extractall(data_dir, _members(members, files.FOLDER), filter="data")
            if database.read(current_revision) is None:
                migrate(database, manifest["schema"])

            def fill(connection: Connection) -> None:
                _read_tables(connection, archive, manifest)
                for name in also:
                    _place(Path(staged) / name, data_dir / name)

            database.write(fill)
    except (tarfile.TarError, EOFError, OSError, ValueError, KeyError, zlib.error) as error:
        raise StoreError(f"{source} is no backup of Cierzo, or a damaged one: {error}") from error
    migrate(database)
    counts: dict[str, int] = manifest["tables"]
    return counts | {name: len(members) for name, members in zip(also, folders, strict=True)}


def _write(
    archive: tarfile.TarFile, database: Database, data_dir: Path, dumped: Path
) -> dict[str, int]:
    """Tables, manifest and files; the rows per table. `dumped` is for what is read on the way."""
    schema, counts = database.read(lambda connection: _dump(connection, dumped))
    with open(dumped / "kept", "w+b") as kept:
        for line in (dumped / files.TABLE).read_bytes().splitlines(keepends=True):
            if _add_bytes(archive, data_dir, json.loads(line)["id"]):
                kept.write(line)
            else:
                counts[files.TABLE] -= 1
        (dumped / "kept").replace(dumped / files.TABLE)
    for name in counts:
        with open(dumped / name, "rb") as table:
            _add(archive, f"tables/{name}.jsonl", table)
    manifest = {
        "format": FORMAT,
        "schema": schema,
        "created_at_ms": now_ms(),
        "tables": counts,
    }
    _add(archive, MANIFEST, io.BytesIO(json.dumps(manifest, indent=2).encode()))
    return counts


def _dump(connection: Connection, folder: Path) -> tuple[str | None, dict[str, int]]:
    """The schema's revision, and how many rows of each table are in `folder` now."""
    counts = {}
    for table in metadata.sorted_tables:
        with open(folder / table.name, "wb") as file:
            counts[table.name] = _write_rows(connection, table, file)
    return current_revision(connection), counts


def _write_rows(connection: Connection, table: Table, file: IO[bytes]) -> int:
    count = 0
    for row in connection.execute(select(table).execution_options(yield_per=CHUNK_ROWS)):
        fields = {name: _plain(value) for name, value in row._mapping.items()}
        file.write(json.dumps(fields).encode() + b"\n")
        count += 1
    return count


def _add_bytes(archive: tarfile.TarFile, data_dir: Path, file_id: str) -> bool:
    """False for a file that has none any more."""
    file = files.open_bytes(data_dir, file_id)
    if file is None:
        return False
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


def _members(members: Sequence[tarfile.TarInfo], folder: str) -> list[tarfile.TarInfo]:
    return [member for member in members if member.name.startswith(folder + "/")]


def _refuse_other(there: Path, restored: Path) -> None:
    """Raise StoreError where files would be lost: what a restore left that was cut off may lie
    there, and nothing else."""
    paths = _finished(there)
    if paths and (
        paths != _finished(restored)
        or any((there / path).read_bytes() != (restored / path).read_bytes() for path in paths)
    ):
        raise StoreError(f"{there} is not empty; restore into a new data folder")


def _place(restored: Path, there: Path) -> None:
    """Idempotent."""
    if restored.is_dir() and not _finished(there):
        restored.replace(there)


def _plain(value: Any) -> Any:
    return {"$bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _add(archive: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = file.seek(0, io.SEEK_END)
    member.mode = 0o600
    file.seek(0)
    archive.addfile(member, file)


def _read_manifest(archive: tarfile.TarFile) -> dict[str, Any]:
    file = archive.extractfile(MANIFEST)
    manifest: dict[str, Any] = json.loads(file.read() if file is not None else b"null")
    if manifest["format"] != FORMAT or manifest["schema"] not in revisions():
        raise StoreError("the backup is of a newer Cierzo; restore it with that one")
    return manifest


def _is_empty(connection: Connection) -> bool:
    """True for a database without a schema, and for one that nobody has used."""
    if current_revision(connection) is None:
        return True
    made = {"organisations": 1, "workspaces": 1}  # by the first migration
    counts = {
        table.name: connection.scalar(select(func.count()).select_from(table))
        for table in metadata.sorted_tables
    }
    return all(count == made.get(name, 0) for name, count in counts.items())


def _read_tables(
    connection: Connection, archive: tarfile.TarFile, manifest: dict[str, Any]
) -> None:
    if current_revision(connection) != manifest["schema"]:
        raise StoreError(
            f"the backup has schema {manifest['schema']} and the database a later one: restore"
            " into a new data folder"
        )
    there = MetaData()
    there.reflect(connection)
    tables = [table for table in there.sorted_tables if table.name in manifest["tables"]]
    for table in reversed(tables):
        connection.execute(delete(table))
    for table in tables:
        file = archive.extractfile(f"tables/{table.name}.jsonl")
        assert file is not None
        count = 0
        for rows in _chunks(file):
            connection.execute(insert(table), rows)
            count += len(rows)
        if count != manifest["tables"][table.name]:
            raise StoreError(f"the backup's table {table.name} is cut short")


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
