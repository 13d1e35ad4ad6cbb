"""Writes the ledger beside the event loop, many rows in one commit when many are waiting.

A row's future resolves when the row is on the disk. While the database is away rows wait in
memory and are tried again; whoever needs the row before going on waits for its future.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import Event, Thread

from cierzo.errors import StoreUnavailableError
from cierzo.store.db import Database
from cierzo.store.ledger import UsageRecord, insert_usage

logger = logging.getLogger(__name__)

MAX_ROWS = 500
"""Of one commit."""

RETRY_S = 1.0
"""Between two attempts on a database that is away."""

Row = tuple[UsageRecord, "Future[None]"]


class LedgerWriter:
    """One per process. Its thread starts at once and ends with `close()`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: SimpleQueue[Row | None] = SimpleQueue()
        self._is_closing = Event()
        self._thread = Thread(target=self._run, name="cierzo-ledger", daemon=True)
        self._thread.start()

    def put(self, record: UsageRecord) -> Future[None]:
        """Queue a row. The future fails only where the row can never be written."""
        future: Future[None] = Future()
        self._queue.put((record, future))
        return future

    def close(self) -> None:
        """Write what is queued, trying once if the database is away. Idempotent."""
        if not self._is_closing.is_set():
            self._is_closing.set()
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            rows = [self._queue.get()]
            while len(rows) < MAX_ROWS and not self._queue.empty():
                rows.append(self._queue.get())
            is_open = None not in rows
            self._write([row for row in rows if row is not None])

    def _write(self, rows: list[Row]) -> None:
        while rows:
            try:
                records = [record for record, _ in rows]
                self._database.write(partial(insert_usage, records=records))
            except StoreUnavailableError as error:
                logger.error("%d rows of the ledger wait: %s", len(rows), error)
                if not self._is_closing.wait(RETRY_S):
                    continue
                self._give_up(rows, error)
            except Exception as error:
                if len(rows) > 1:  # one bad row must not keep the others out
                    for row in rows:
                        self._write([row])
                else:
                    self._give_up(rows, error)
            else:
                for _, future in rows:
                    future.set_result(None)
            return

    def _give_up(self, rows: list[Row], error: Exception) -> None:
        for record, future in rows:
            logger.error("not in the ledger: %s (%s)", record, type(error).__name__)
            future.set_exception(error)
