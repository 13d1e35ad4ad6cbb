"""Organisations own workspaces; names are unique within one, limits and ends hold for all of it."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from cierzo.errors import StoreError, StoreNotFoundError
from cierzo.store import api_keys, ledger, organisations, workspaces
from cierzo.store.db import Database
from cierzo.store.ledger import Period
from cierzo.store.limits import Limits
from cierzo.store.migrations import migrate
from cierzo.store.tables import DEFAULT_ID
from tests.store.test_ledger import record


def test_names_are_unique_within_an_organisation(database: Database) -> None:
    acme = organisations.create(database, "acme", Limits(max_concurrent=9))
    with pytest.raises(StoreError, match="organisation called 'acme' already"):
        organisations.create(database, "acme")
    assert organisations.find(database, acme.id) == organisations.find(database, "acme") == acme
    with pytest.raises(StoreNotFoundError, match="no organisation 'amce'; there are default, acme"):
        organisations.find(database, "amce")
    ours = workspaces.create(database, "team")
    theirs = workspaces.create(database, "team", organisation_id=acme.id)
    with pytest.raises(StoreError, match="workspace called 'team' already"):
        workspaces.create(database, "team", organisation_id=acme.id)
    assert (ours.path, theirs.path) == ("team", "acme/team")
    for name in (theirs.id, "acme/team"):
        assert workspaces.find(database, name) == theirs
    assert workspaces.find(database, "team", acme.id) == theirs
    with pytest.raises(StoreError, match=f"several workspaces .*{theirs.id} \\(acme/team"):
        workspaces.find(database, "team")
    with pytest.raises(StoreNotFoundError, match="there are acme/team$"):
        workspaces.find(database, DEFAULT_ID, acme.id)
    workspaces.create(database, "default", organisation_id=acme.id)
    assert workspaces.find(database, "default").id == DEFAULT_ID, "an id goes before a name"


def test_its_end_is_its_keys_end(database: Database) -> None:
    acme = organisations.create(database, "acme")
    team = workspaces.create(database, "team", organisation_id=acme.id)
    key, spelling = api_keys.create(database, "ci", team.id, is_admin=True)
    root, _ = api_keys.create(database, "root", DEFAULT_ID, is_admin=True)
    assert (key.workspace, key.is_server_admin, root.is_server_admin) == ("acme/team", False, True)
    assert [one.id for one in api_keys.list_all(database, organisation_id=acme.id)] == [key.id]
    with pytest.raises(StoreNotFoundError, match="no key"):
        api_keys.get(database, root.id, acme.id)
    organisations.set_limits(database, acme.id, Limits(requests_per_minute=3))
    changed = api_keys.authenticate(database, spelling)
    assert changed is not None and changed.organisation_limits == Limits(requests_per_minute=3)
    organisations.archive(database, acme.id)
    assert api_keys.authenticate(database, spelling) is None
    with pytest.raises(StoreError, match="default organisation cannot be archived"):
        organisations.archive(database, DEFAULT_ID)


def test_usage_by_organisation(database: Database) -> None:
    acme = organisations.create(database, "acme")
    ours = workspaces.create(database, "team")
    theirs = workspaces.create(database, "team", organisation_id=acme.id)
    rows = [record(str(n), workspace_id=of.id) for n, of in enumerate((ours, theirs, theirs))]
    database.write(lambda connection: ledger.insert_usage(connection, rows))

    def requests(by: ledger.By, period: Period) -> dict[str, int]:
        return {line.group[0]: line.requests for line in ledger.summarise(database, period, [by])}

    assert requests("organisation", Period()) == {"acme": 2, "default": 1}
    assert requests("workspace", Period()) == {"acme/team": 2, "team": 1}
    of_acme = Period(organisation_id=acme.id)
    assert requests("workspace", of_acme) == {"acme/team": 2}
    assert (
        ledger.total(database, Period(workspace_id=ours.id, organisation_id=acme.id)).requests == 0
    )


def test_what_was_there_is_the_default_organisations(empty_database: Database) -> None:
    """A key made before organisations had limits works on, and its admin is the server's."""
    migrate(empty_database, "0003")
    statement = text(
        "INSERT INTO api_keys (id, workspace_id, name, secret_sha256, is_admin, created_at_ms)"
        " VALUES ('k', 'default', 'old', :secret, :yes, 1)"
    )
    row = {"secret": bytes(32), "yes": True}
    empty_database.write(lambda connection: connection.execute(statement, row))
    migrate(empty_database)
    key = api_keys.get(empty_database, "k", DEFAULT_ID)
    assert key.is_server_admin and key.organisation_limits == Limits()
