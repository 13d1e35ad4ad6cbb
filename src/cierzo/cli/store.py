"""The store for a command, and how commands print and read what is in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from cierzo.cli import options

if TYPE_CHECKING:
    from cierzo.settings import Settings
    from cierzo.store import Database


def open_store(**flags: object) -> AbstractContextManager[Database]:
    """The database that the settings name, with these flags; closed at the end."""
    return store_of(options.settings_of(**flags))


@contextmanager
def store_of(settings: Settings) -> Iterator[Database]:
    """The database that these settings name, closed at the end."""
    from cierzo.store import open_database

    database = open_database(settings.data, url_of(settings))
    try:
        yield database
    finally:
        database.close()


def url_of(settings: Settings) -> str | None:
    """The database's URL with its password, for the store only."""
    return settings.database_url.get_secret_value() if settings.database_url else None


def day(at_ms: int | None) -> str:
    """`2026-11-23`, in UTC."""
    return "" if at_ms is None else time.strftime("%Y-%m-%d", time.gmtime(at_ms / 1000))
