"""Keys are shown once, kept as hashes, and good until revoked, expired or archived."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from cierzo.errors import StoreError, StoreNotFoundError
from cierzo.ids import now_ms
from cierzo.store import api_keys, tables, workspaces
from cierzo.store.db import Database
from cierzo.store.limits import Limits
from cierzo.store.tables import DEFAULT_ID


def test_only_the_spelling_shown_once_opens(database: Database) -> None:
    assert not api_keys.any_exists(database)
    key, spelling = api_keys.create(database, "ci", DEFAULT_ID)
    assert api_keys.authenticate(database, spelling) == key
    swapped = spelling[:-1] + ("a" if spelling[-1] != "a" else "b")
    unknown = spelling.replace(key.id, "a" * 12)
    for wrong in ("", "x", swapped, unknown, spelling + "a", spelling + "\n", " " + spelling):
        assert api_keys.authenticate(database, wrong) is None
    rows = database.read(lambda connection: connection.execute(select(tables.api_keys)).all())
    assert spelling.rsplit("_")[2] not in repr(rows)
    assert "secret" not in repr(key)


def test_what_a_key_is_told_is_kept(database: Database) -> None:
    limits = Limits(budget_micros_month=5_000_000, tokens_per_minute=1000)
    workspace = workspaces.create(database, "team", Limits(max_concurrent=3))
    key, spelling = api_keys.create(
        database,
        "narrow",
        workspace.id,
        is_admin=True,
        endpoints=["chat", "fim"],
        models=["tiny"],
        expires_at_ms=now_ms() + 60_000,
        limits=limits,
    )
    assert (key.endpoints, key.models, key.is_admin) == (("chat", "fim"), ("tiny",), True)
    assert (key.limits, key.workspace_limits) == (limits, Limits(max_concurrent=3))
    assert key.workspace == "team"
    api_keys.set_limits(database, key.id, Limits(requests_per_minute=1))
    workspaces.set_limits(database, workspace.id, Limits())
    changed = api_keys.authenticate(database, spelling)
    assert changed is not None
    assert (changed.limits, changed.workspace_limits) == (Limits(requests_per_minute=1), Limits())


def test_a_revoked_key_is_refused_and_frees_its_name(database: Database) -> None:
    key, spelling = api_keys.create(database, "ci", DEFAULT_ID)
    with pytest.raises(StoreError, match="called 'ci' in this workspace already"):
        api_keys.create(database, "ci", DEFAULT_ID)
    api_keys.revoke(database, api_keys.find(database, "ci").id)
    assert api_keys.authenticate(database, spelling) is None
    assert api_keys.any_exists(database), "the last revocation must not open the server"
    again, _ = api_keys.create(database, "ci", DEFAULT_ID)
    assert [key.id, again.id] == [found.id for found in api_keys.list_all(database)]


def test_an_expired_key_is_refused(database: Database) -> None:
    _, spelling = api_keys.create(database, "old", DEFAULT_ID, expires_at_ms=now_ms() - 1)
    assert api_keys.authenticate(database, spelling) is None


def test_an_archived_workspace_ends_its_keys(database: Database) -> None:
    workspace = workspaces.create(database, "team")
    _, spelling = api_keys.create(database, "ci", workspace.id)
    workspaces.archive(database, workspace.id)
    assert api_keys.authenticate(database, spelling) is None
    with pytest.raises(StoreError, match="default workspace cannot be archived"):
        workspaces.archive(database, DEFAULT_ID)


def test_names_lead_to_one_or_to_a_message(database: Database) -> None:
    team = workspaces.create(database, "team")
    with pytest.raises(StoreError, match="workspace called 'team' already"):
        workspaces.create(database, "team")
    assert workspaces.find(database, team.id) == workspaces.find(database, "team") == team
    with pytest.raises(StoreNotFoundError, match="no workspace 'taem'; there are default, team"):
        workspaces.find(database, "taem")
    first, _ = api_keys.create(database, "ci", DEFAULT_ID)
    second, _ = api_keys.create(database, "ci", team.id)
    with pytest.raises(StoreError, match=f"several keys .*{first.id} of default"):
        api_keys.find(database, "ci")
    assert api_keys.find(database, second.id).workspace == "team"
    assert [key.id for key in api_keys.list_all(database, team.id)] == [second.id]
    with pytest.raises(StoreNotFoundError, match="no key 'cd'"):
        api_keys.find(database, "cd")


@pytest.mark.parametrize("name", ["", " ", "x" * 201, "two\nlines"])
def test_names_fit_a_line(database: Database, name: str) -> None:
    with pytest.raises(StoreError, match="a name has 1 to 200 printable characters"):
        workspaces.create(database, name)
    with pytest.raises(StoreError, match="a name has 1 to 200 printable characters"):
        api_keys.create(database, name, DEFAULT_ID)


def test_an_unknown_endpoint_is_refused(database: Database) -> None:
    with pytest.raises(StoreError, match="no endpoint 'chats'; there are chat, fim"):
        api_keys.create(database, "ci", DEFAULT_ID, endpoints=["chats"])
