"""`cierzo backup` and `cierzo restore`: a whole store to and from one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import out
from cierzo.cli.store import open_store, url_of
from cierzo.errors import StoreError


def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it.", metavar="FILE")],
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Write keys, prices, the ledger, files and classifiers to one file; the server may run
    meanwhile."""
    from cierzo.classifiers.definition import FOLDER
    from cierzo.store.backup import back_up

    if file.exists():
        raise StoreError(f"{file} is there already; name a new file")
    settings = options.settings_of(data=data, database_url=database_url)
    with open_store(data=data, database_url=database_url) as database:
        counts = back_up(database, settings.data, file, [FOLDER])
    _say(file, counts)


def restore(
    file: Annotated[Path, typer.Argument(help="What `cierzo backup` wrote.", metavar="FILE")],
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Fill an empty data folder or database from a backup, whichever database that was made of."""
    from cierzo.classifiers.definition import FOLDER
    from cierzo.store.db import Database
    from cierzo.store.db import database_url as resolve
    from cierzo.store.restore import restore as restore_store

    settings = options.settings_of(data=data, database_url=database_url)
    database = Database(resolve(settings.data, url_of(settings)))
    try:
        counts = restore_store(database, settings.data, file, [FOLDER])
    finally:
        database.close()
    _say(file, counts)


def _say(file: Path, counts: dict[str, int]) -> None:
    out.print(f"{file}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
