"""The schema's history: `versions/` holds one step per file, applied in order, once."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from cierzo.errors import StoreError
from cierzo.store.db import Database

_MIGRATION_LOCK = 0x63696572
"""PostgreSQL's advisory lock under which the schema is changed; any number no one else takes."""


def migrate(database: Database, revision: str = "head") -> None:
    """Bring the schema to `revision`, in one transaction. Two processes may do so at once.

    Raises StoreError when the database was written by a newer Cierzo.
    """

    def upgrade(connection: Connection) -> None:
        if not database.is_sqlite:  # SQLite's writers are one at a time anyway
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        config = _config(connection)
        current = current_revision(connection)
        known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
        if current is not None and current not in known:
            raise StoreError(
                f"the database is at schema {current}, and this Cierzo knows only up to {known[0]}:"
                " use the newer Cierzo that wrote it"
            )
        command.upgrade(config, revision)

    database.write(upgrade)


def current_revision(connection: Connection) -> str | None:
    """The schema's revision, None for an empty database."""
    return MigrationContext.configure(connection).get_current_revision()


def revisions() -> list[str]:
    """Every revision, oldest first."""
    script = ScriptDirectory.from_config(_config())
    return [step.revision for step in script.walk_revisions()][::-1]


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    # A per cent sign in a path is none of configparser's business.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
