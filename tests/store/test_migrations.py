"""The steps lead from any revision to the tables that the code is written for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import URL, insert, select, text

from cierzo.errors import StoreError
from cierzo.store import ledger
from cierzo.store.db import Database
from cierzo.store.migrations import current_revision, migrate, revisions
from cierzo.store.tables import DEFAULT_ID, metadata, workspaces


def test_the_steps_end_at_the_tables(database: Database) -> None:
    def differences(connection: object) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))  # type: ignore[arg-type]

    assert database.read(differences) == []
    assert database.read(current_revision) == revisions()[-1]


@pytest.mark.parametrize("start", revisions())
def test_what_an_older_schema_held_is_kept(empty_database: Database, start: str) -> None:
    migrate(empty_database, start)
    statements = (
        "INSERT INTO workspaces (id, organisation_id, name, created_at_ms)"
        " VALUES ('w', 'default', 'kept', 1)",
        "INSERT INTO usage_records (request_id, created_at_ms, workspace_id, model, endpoint,"
        " status, is_batch, prompt_tokens, cached_tokens, completion_tokens, duration_ms,"
        " price_micros) VALUES ('r', 1, 'w', 'm', '/e', 'ok', false, 5, 1, 2, 9, 7)",
    )
    for statement in map(text, statements):
        empty_database.write(methodcaller("execute", statement))
    migrate(empty_database)
    names = empty_database.read(
        lambda connection: connection.scalars(select(workspaces.c.name)).all()
    )
    assert set(names) == {DEFAULT_ID, "kept"}
    row = ledger.find(empty_database, "r")
    assert row is not None and (row.workspace_id, row.price_micros) == ("w", 7)
    assert (row.upstream, row.usage_known) == (None, True)


def test_many_may_migrate_at_once(url: URL) -> None:
    databases = [Database(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(migrate, databases))
    assert databases[0].read(current_revision) == revisions()[-1]
    for database in databases:
        database.close()


def test_a_newer_schema_is_refused(database: Database) -> None:
    newer = text("UPDATE alembic_version SET version_num = '9999'")
    database.write(lambda connection: connection.execute(newer))
    with pytest.raises(StoreError, match="schema 9999.*newer Cierzo"):
        migrate(database)


def test_a_failed_step_leaves_nothing(empty_database: Database) -> None:
    with pytest.raises(Exception, match="no such revision|Can't locate"):
        migrate(empty_database, "8888")
    assert empty_database.read(current_revision) is None
    migrate(empty_database)
    empty_database.write(
        lambda connection: connection.execute(
            insert(workspaces),
            [{"id": "w", "organisation_id": DEFAULT_ID, "name": "w", "created_at_ms": 1}],
        )
    )
