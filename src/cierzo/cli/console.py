"""What the commands print with: answers on stdout, progress and errors on stderr.

Without a terminal a progress bar becomes a line for every quarter done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

MAX_TABLE_WIDTH = 1000


class ByteProgress:
    """A bar per file, fed with bytes done and bytes in all. One at a time, or many."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._tasks: dict[str, TaskID] = {}
        self._quarters: dict[str, int] = {}
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=err,
        )

    def __call__(self, file: str, done_bytes: int, total_bytes: int) -> None:
        if not err.is_terminal:
            self._say_quarters(file, done_bytes, total_bytes)
            return
        if file not in self._tasks:
            self._tasks[file] = self._bar.add_task(f"{self._verb} {file}", total=total_bytes)
            self._bar.start()
        self._bar.update(self._tasks[file], completed=done_bytes, total=total_bytes)

    def stop(self) -> None:
        if self._tasks:
            self._bar.stop()

    def _say_quarters(self, file: str, done_bytes: int, total_bytes: int) -> None:
        quarter = 4 * done_bytes // total_bytes if total_bytes else 4
        if quarter == self._quarters.get(file):
            return
        self._quarters[file] = quarter
        err.print(f"{self._verb} {file}: {25 * quarter} % of {megabytes(total_bytes)}")


@contextmanager
def byte_progress(verb: str) -> Iterator[ByteProgress]:
    """A ByteProgress whose bars are closed at the end, whatever happens."""
    progress = ByteProgress(verb)
    try:
        yield progress
    finally:
        progress.stop()


def print_table(table: Table) -> None:
    """As wide as it needs: what is piped on or looked for must not end in dots."""
    roomy = out.options.update(width=MAX_TABLE_WIDTH)
    needed = Measurement.get(out, roomy, table).maximum
    Console(width=max(out.width, needed), highlight=False).print(table)


def megabytes(size_bytes: int) -> str:
    """`98.4 MB`, `7.2 GB`: decimal units, as disks and hubs count."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"
