"""What must survive: organisations, workspaces, keys, prices and the ledger.

`Database` runs transactions; the modules beside it say, per noun, what is in them. Knows
nothing of HTTP, models or tokens' text.
"""

from __future__ import annotations

from pathlib import Path

from cierzo.store.db import Database, database_url
from cierzo.store.migrations import migrate

__all__ = ["Database", "open_database"]


def open_database(data_dir: Path, url: str | None) -> Database:
    """The database of the data folder, or at `url`; its schema brought up to date.

    Raises SettingError, StoreError.
    """
    database = Database(database_url(data_dir, url))
    try:
        migrate(database)
    except BaseException:
        database.close()
        raise
    return database
