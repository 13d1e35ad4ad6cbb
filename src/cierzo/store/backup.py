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
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, Table, select

from cierzo.errors import StoreError
from cierzo.ids import now_ms
from cierzo.store import files
from cierzo.store.db import Database
from cierzo.store.migrations import current_revision
from cierzo.store.tables import metadata

FORMAT = 1
MANIFEST = "cierzo-backup.json"
CHUNK_ROWS = 1000


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
    for path in finished(data_dir / name):
        with suppress(FileNotFoundError), open(data_dir / name / path, "rb") as file:
            _add(archive, f"{name}/{path}", file)
            count += 1
    return count


def finished(folder: Path) -> list[Path]:
    """The files below a folder but those that are still being written."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".part")
    return sorted(path.relative_to(folder) for path in paths)


def _plain(value: Any) -> Any:
    return {"$bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _add(archive: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size = file.seek(0, io.SEEK_END)
    member.mode = 0o600
    file.seek(0)
    archive.addfile(member, file)
