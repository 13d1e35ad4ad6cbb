"""What must survive: organisations, workspaces, keys, prices and the ledger.

`Database` runs transactions; the modules beside it say, per noun, what is in them. Knows
nothing of HTTP, models or tokens' text.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, func, select

from cierzo.ids import continue_after
from cierzo.store.db import Database, database_url
from cierzo.store.migrations import migrate
from cierzo.store.tables import metadata

__all__ = ["Database", "open_database"]


def open_database(data_dir: Path, url: str | None) -> Database:
    """The database of the data folder, or at `url`; its schema brought up to date.

    New ids sort after those that are there. Raises SettingError, StoreError.
    """
    database = Database(database_url(data_dir, url))
    try:
        migrate(database)
        for given_id in database.read(_newest_ids):
            continue_after(given_id)
    except BaseException:
        database.close()
        raise
    return database


def _newest_ids(connection: Connection) -> list[str]:
    """Of what is listed by id."""
    listed = (metadata.tables[name].c.id for name in ("files", "batch_jobs"))
    newest = (connection.scalar(select(func.max(given_id))) for given_id in listed)
    return [given_id for given_id in newest if given_id is not None]
