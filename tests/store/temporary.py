"""A migrated SQLite database for a test that is about something else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from cierzo.store import Database, open_database
from cierzo.store.db import FILE_NAME, database_url


@contextmanager
def temporary_database() -> Iterator[Database]:
    with tempfile.TemporaryDirectory(prefix="cierzo-store-") as folder:
        (Path(folder) / FILE_NAME).write_bytes(_migrated())
        database = Database(database_url(Path(folder), None))
        try:
            yield database
        finally:
            database.close()


@cache
def _migrated() -> bytes:
    """The file as the migrations leave it: they take longer than most tests."""
    folder = Path(tempfile.mkdtemp(prefix="cierzo-store-"))
    open_database(folder, None).close()  # the last connection moves all into the file
    data = (folder / FILE_NAME).read_bytes()
    shutil.rmtree(folder)
    return data
