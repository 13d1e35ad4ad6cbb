"""Files: a row each in the database, the bytes in a folder under the row's id.

A file exists while its row does, which comes after its bytes and goes before them. Meanwhile
the bytes are in a folder of their own, where a start finds what a crash left. A name that a
client gives is a column, never a path. Blocking: call it off the event loop.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import ColumnElement, Connection, delete, func, or_, select

from cierzo.errors import StoreFullError, StoreNotFoundError, StoreUnavailableError
from cierzo.ids import new_id, now_ms
from cierzo.store.db import Database
from cierzo.store.insert import insert_new
from cierzo.store.names import printable
from cierzo.store.tables import files

TABLE = files.name
FOLDER = "files"
TRANSIT = "files-in-transit"

RESERVED_NBYTES = 64 * 1024 * 1024
"""Of the disk, left to the database: a full disk must stop uploads, not keys and the ledger."""

INTERNAL = "internal"
"""The visibility of files that the server keeps for itself."""

_ID = re.compile(r"[0-9a-f-]{36}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_columns = files.c


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One row. `url_secret` signs links to this file, which so end with it."""

    id: str
    workspace_id: str
    filename: str
    purpose: str
    sample_type: str
    source: str
    mimetype: str
    size_nbytes: int
    num_lines: int | None
    created_at_ms: int
    expires_at_ms: int | None = None
    visibility: str = "workspace"
    url_secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which files a listing shows; an empty field leaves nothing out."""

    purpose: str = ""
    search: str = ""
    sample_types: Sequence[str] = ()
    sources: Sequence[str] = ()
    mimetypes: Sequence[str] = ()
    after: str = ""

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        if self.purpose:
            yield _columns.purpose == printable(self.purpose)
        if self.after:  # ids sort by time
            yield _columns.id < printable(self.after)
        if self.search:
            yield _columns.filename.icontains(printable(self.search), autoescape=True)
        for column, values in (
            (_columns.sample_type, self.sample_types),
            (_columns.source, self.sources),
            (_columns.mimetype, self.mimetypes),
        ):
            if values:
                yield column.in_([printable(value) for value in values])


class Incoming:
    """A file that is being written; nobody sees it. Removed on leaving, unless it was sealed."""

    def __init__(self, store: FileStore) -> None:
        self.id = new_id()
        self.num_bytes = 0
        self._store = store
        self._path = store.transit / self.id
        self._num_line_ends = 0
        self._ends_line = True
        self._is_sealed = False
        with _room_for("a new file"):
            self._file = open(self._path, "xb", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # what a sweep finds unlocked is nobody's

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._is_sealed:
            self._path.unlink(missing_ok=True)
        self._file.close()

    @property
    def num_lines(self) -> int:
        return self._num_line_ends + (not self._ends_line)

    def write(self, data: bytes) -> None:
        """Append. Raises StoreFullError."""
        if shutil.disk_usage(self._store.transit).free < RESERVED_NBYTES + len(data):
            raise _full(f"the {self.num_bytes} bytes that have come")
        with _room_for(f"{self.num_bytes + len(data)} bytes"):
            rest = memoryview(data)
            while rest:  # the last that a disk takes may be a part
                rest = rest[self._file.write(rest) :]
        self.num_bytes += len(data)
        self._num_line_ends += data.count(b"\n")
        self._ends_line = data.endswith(b"\n") if data else self._ends_line

    def seal(self) -> None:
        """Bring it to the disk. From here on its row decides whether it exists. Raises
        StoreFullError."""
        with _room_for(f"{self.num_bytes} bytes"):
            os.fsync(self._file.fileno())
            _sync_folder(self._store.transit)
        self._is_sealed = True

    def drop(self) -> None:
        """After all, it has no row."""
        self._path.unlink()

    def land(self) -> None:
        """To its place, after its row was committed."""
        self._path.replace(self._store.folder / self.id)


class FileStore:
    """The files of one data folder, whose workspaces see only their own.

    `folder` holds them; `transit` those that come or go. What is found there at the start was
    left by a crash: a row says that it stays, none that it was never there or is deleted.
    """

    def __init__(self, database: Database, data_dir: Path) -> None:
        self._database = database
        self._data_dir = data_dir
        self.folder = data_dir / FOLDER
        self.transit = data_dir / TRANSIT
        self._locks = data_dir / "locks"
        for folder in (self.folder, self.transit, self._locks):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()

    def receive(self) -> Incoming:
        """A file to write. Raises StoreFullError."""
        return Incoming(self)

    def keep(self, incoming: Incoming, record: FileRecord) -> None:
        """Make a written file one of these. Raises StoreFullError, StoreUnavailableError."""
        assert incoming.id == record.id
        incoming.seal()
        self._database.write(lambda connection: insert_file(connection, record))
        incoming.land()

    def get(self, workspace_id: str, file_id: str) -> FileRecord:
        """Raises StoreNotFoundError."""
        found = self.find(file_id)
        if found is None or found.workspace_id != workspace_id or found.visibility == INTERNAL:
            raise _missing(file_id)
        return found

    def find(self, file_id: str) -> FileRecord | None:
        """Of any workspace, internal ones too."""
        return find_file(self._database, file_id)

    def list(
        self, workspace_id: str, chosen: Filter, offset: int, limit: int
    ) -> tuple[list[FileRecord], int]:
        """A page of a workspace's files, newest first, and how many there are in all."""
        where = (
            _columns.workspace_id == workspace_id,
            _columns.visibility != INTERNAL,
            _is_live(),
            *chosen.conditions(),
        )
        page = select(files).where(*where).order_by(_columns.id.desc()).offset(offset).limit(limit)

        def work(connection: Connection) -> tuple[list[FileRecord], int]:
            rows = connection.execute(page).all()
            total = connection.scalar(select(func.count()).select_from(files).where(*where))
            return [FileRecord(**row._mapping) for row in rows], total or 0

        return self._database.read(work)

    def open(self, record: FileRecord) -> BinaryIO:
        """Its bytes, readable to the end even if it is deleted. Raises StoreNotFoundError,
        StoreUnavailableError."""
        file = open_bytes(self._data_dir, record.id)
        if file is not None:
            return file
        if self.find(record.id) is None:
            raise _missing(record.id)
        raise StoreUnavailableError(
            f"the bytes of file {record.id} are not in this server's data folder; servers on one"
            " database share one folder (--data)"
        )

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Whether nobody else on this data folder, in any process, holds that name meanwhile.

        The lock is the system's: it ends with its process, however that ends.
        """
        with open(self._locks / name, "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def delete(self, record: FileRecord) -> None:
        """Its row, then its bytes; both are gone when this returns. Raises StoreNotFoundError,
        StoreUnavailableError."""
        leaving = self.transit / record.id
        with suppress(FileNotFoundError):
            (self.folder / record.id).replace(leaving)
        statement = delete(files).where(_columns.id == record.id)
        count = self._database.write(lambda connection: connection.execute(statement).rowcount)
        leaving.unlink(missing_ok=True)
        if not count:
            raise _missing(record.id)

    def delete_expired(self) -> None:
        """Those whose time is over, which nobody sees any more."""
        query = select(files).where(_columns.expires_at_ms <= now_ms())
        rows = self._database.read(lambda connection: connection.execute(query).all())
        for row in rows:
            with suppress(StoreNotFoundError):
                self.delete(FileRecord(**row._mapping))

    def _sweep(self) -> None:
        """End what a crash interrupted."""
        for path in self.transit.iterdir():
            with suppress(FileNotFoundError, BlockingIOError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another server's, if locked
                if self.find(path.name) is None:
                    path.unlink()
                else:
                    path.replace(self.folder / path.name)
        self.delete_expired()


def insert_file(connection: Connection, record: FileRecord) -> None:
    """Write a row within the caller's transaction."""
    insert_new(connection, files, [asdict(record)])


def is_id(text: str) -> bool:
    """Whether a file's row and its bytes may be called so."""
    return _ID.fullmatch(text) is not None


def find_file(database: Database, file_id: str) -> FileRecord | None:
    """Of any workspace, internal ones too; None: it is gone, or its time is over."""
    if not is_id(file_id):
        return None
    query = select(files).where(_columns.id == file_id, _is_live())
    row = database.read(lambda connection: connection.execute(query).first())
    return None if row is None else FileRecord(**row._mapping)


def open_bytes(data_dir: Path, file_id: str) -> BinaryIO | None:
    """What a file's row stands for, readable to the end even if it is deleted; None: gone."""
    for folder in (FOLDER, TRANSIT, FOLDER):  # it may move just now
        try:
            return open(data_dir / folder / file_id, "rb")
        except FileNotFoundError:
            continue
    return None


def _is_live() -> ColumnElement[bool]:
    return or_(_columns.expires_at_ms.is_(None), _columns.expires_at_ms > now_ms())


def _missing(file_id: str) -> StoreNotFoundError:
    return StoreNotFoundError(f"there is no file {file_id[:64]!r} here")


def _full(what: str) -> StoreFullError:
    return StoreFullError(
        f"the server's disk has no room for {what}; delete files that are no longer needed"
    )


@contextmanager
def _room_for(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _full(what) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
