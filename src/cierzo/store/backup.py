"""A whole store in one file, from either database into either.

    cierzo-backup.json   format, schema revision, rows per table
    tables/NAME.jsonl    a row per line; bytes as {"$bytes": base64}
    files/…              the data folder's files, as they are

The rows are of one moment; the files are read after them, so that every row's file was there.
"""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, MetaData, Table, delete, func, insert, select

from cierzo.errors import StoreError
from cierzo.ids import now_ms
from cierzo.store.db import Database
from cierzo.store.migrations import current_revision, migrate, revisions
from cierzo.store.tables import metadata

FORMAT = 1
MANIFEST = "cierzo-backup.json"
FILES = "files"
CHUNK_ROWS = 1000


def back_up(database: Database, data_dir: Path, target: Path) -> dict[str, int]:
    """Write the store to `target`, which appears whole or not at all; the rows per table."""
    part = target.with_name(target.name + ".part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                counts = database.read(lambda connection: _write_tables(connection, archive))
                if (data_dir / FILES).is_dir():
                    archive.add(data_dir / FILES, FILES)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return counts


def restore(database: Database, data_dir: Path, source: Path) -> dict[str, int]:
    """Fill an empty store from a backup, then bring it to this Cierzo's schema; rows per table.

    Raises StoreError for a store that is not empty, and a file that is no backup.
    """
    try:
        with tarfile.open(source) as archive:
            members = archive.getmembers()  # to the end, before anything is written
            manifest = _read_manifest(archive)
            if not database.read(_is_empty):
                raise StoreError("the store is not empty; restore into a new data folder")
            # Files first: a row that is there must find its file.
            files = [member for member in members if member.name.startswith(FILES + "/")]
            archive.extractall(data_dir, files, filter="data")
            if database.read(current_revision) is None:
                migrate(database, manifest["schema"])
            database.write(lambda connection: _read_tables(connection, archive, manifest))
    except (tarfile.TarError, EOFError, OSError, ValueError, KeyError, zlib.error) as error:
        raise StoreError(f"{source} is no backup of Cierzo, or a damaged one: {error}") from error
    migrate(database)
    counts: dict[str, int] = manifest["tables"]
    return counts


def _write_tables(connection: Connection, archive: tarfile.TarFile) -> dict[str, int]:
    counts = {}
    for table in metadata.sorted_tables:
        with tempfile.TemporaryFile() as file:
            counts[table.name] = _write_rows(connection, table, file)
            _add(archive, f"tables/{table.name}.jsonl", file)
    manifest = {
        "format": FORMAT,
        "schema": current_revision(connection),
        "created_at_ms": now_ms(),
        "tables": counts,
    }
    _add(archive, MANIFEST, io.BytesIO(json.dumps(manifest, indent=2).encode()))
    return counts


def _write_rows(connection: Connection, table: Table, file: IO[bytes]) -> int:
    count = 0
    for row in connection.execute(select(table).execution_options(yield_per=CHUNK_ROWS)):
        fields = {name: _plain(value) for name, value in row._mapping.items()}
        file.write(json.dumps(fields).encode() + b"\n")
        count += 1
    return count


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
