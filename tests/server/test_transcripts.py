"""Prompts and answers are stored where the operator says so, for so long, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import httpx2 as httpx

from cierzo.server.config import ServerConfig
from cierzo.store import Database, api_keys, organisations, tables, workspaces
from cierzo.store.tables import DEFAULT_ID
from tests.server.conftest import scripted_model
from tests.server.live import live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_auth import bearer
from tests.server.test_chat import CHAT, body
from tests.server.test_errors import check
from tests.store.temporary import temporary_database
from tests.waiting import eventually

TRANSCRIPTS = "/v1/admin/transcripts/"


@contextmanager
def serving(days: int | None) -> Iterator[tuple[httpx.Client, Database, ScriptedEngine]]:
    """A server that keeps transcripts for so many days, and an admin's client."""
    with temporary_database() as database:
        _, spelling = api_keys.create(database, "root", DEFAULT_ID, is_admin=True)
        engine = ScriptedEngine()
        config = ServerConfig(transcript_days=days)
        with live_server([scripted_model(engine)], config, database) as server:
            with httpx.Client(base_url=server.url, headers=bearer(spelling), timeout=20) as client:
                yield client, database, engine


def read(client: httpx.Client, answer: httpx.Response) -> dict[str, Any]:
    path = TRANSCRIPTS + answer.headers["x-request-id"]
    assert eventually(lambda: client.get(path).status_code == 200)
    found: dict[str, Any] = client.get(path).json()
    return found


def count(database: Database) -> int:
    query = tables.transcripts.select()
    return len(database.read(lambda connection: connection.execute(query).all()))


def test_without_it_nothing_is_stored() -> None:
    with serving(None) as (client, database, _):
        answer = client.post(CHAT, json=body())
        check(client.get(TRANSCRIPTS + answer.headers["x-request-id"]), 404, "not_found", "no tran")
        assert count(database) == 0


def test_what_was_asked_and_answered() -> None:
    with serving(30) as (client, database, engine):
        answer = client.post(CHAT, json=body())
        found = read(client, answer)
        assert json.loads(found["request"]) == body()
        assert json.loads(found["answer"]) == answer.json()
        assert found["workspace_id"] == DEFAULT_ID
        begun, ended = (datetime.fromisoformat(found[at]) for at in ("created_at", "expires_at"))
        assert ended - begun == timedelta(days=30)
        streamed = client.post(CHAT, json=body(stream=True))
        assert read(client, streamed)["answer"] == streamed.text
        engine.script = lambda request: ["Hel", 60.0, "lo"]
        with client.stream("POST", CHAT, json=body(stream=True)) as cut:
            next(cut.iter_lines())
        assert "[DONE]" not in read(client, cut)["answer"]
        before = count(database)
        client.post("/v1/files", files={"file": ("a.jsonl", b"{}")})
        client.post(CHAT, json=body(), headers=bearer("wrong"))
        client.get("/v1/models")
        assert count(database) == before, "only what was let in for a model"
        kept = database.read(lambda c: c.execute(tables.transcripts.select()).all())
        assert all("cierzo_" not in repr(row) for row in kept), "no key is kept"


def test_an_admin_reads_its_organisations() -> None:
    with serving(1) as (root, database, _):
        acme = organisations.create(database, "acme")
        team = workspaces.create(database, "team", organisation_id=acme.id)
        admin = bearer(api_keys.create(database, "admin", team.id, is_admin=True)[1])
        common = bearer(api_keys.create(database, "common", team.id)[1])
        ours, theirs = root.post(CHAT, json=body()), root.post(CHAT, json=body(), headers=common)
        for answer, status in ((ours, 404), (theirs, 200)):
            read(root, answer)
            path = TRANSCRIPTS + answer.headers["x-request-id"]
            assert root.get(path, headers=admin).status_code == status
            assert root.get(path, headers=common).status_code == 403
