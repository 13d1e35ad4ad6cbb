"""Who may ask for what: no keys, good keys, bad keys, confined keys."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx2 as httpx
import pytest
from mistralai.client import Mistral, errors

from cierzo.errors import StoreUnavailableError
from cierzo.server.auth import MEMORY_S
from cierzo.server.route_table import ROUTES
from cierzo.store import Database, api_keys, workspaces
from cierzo.store.tables import DEFAULT_ID
from tests.server.conftest import scripted_model
from tests.server.live import LiveServer, live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_chat import CHAT, body
from tests.server.test_errors import check
from tests.store.temporary import temporary_database
from tests.waiting import eventually


@pytest.fixture(scope="module")
def keyed_database() -> Iterator[Database]:
    with temporary_database() as database:
        api_keys.create(database, "first", DEFAULT_ID)
        yield database


@pytest.fixture(scope="module")
def keyed_engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture(scope="module")
def keyed_server(keyed_database: Database, keyed_engine: ScriptedEngine) -> Iterator[LiveServer]:
    models = [scripted_model(keyed_engine), scripted_model(keyed_engine, "other")]
    with live_server(models, database=keyed_database) as server:
        yield server


@pytest.fixture
def keyed(keyed_server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=keyed_server.url) as http:
        yield http


def bearer(spelling: str) -> dict[str, str]:
    return {"authorization": f"Bearer {spelling}"}


def test_every_scope_is_one_that_a_key_may_have() -> None:
    scopes = {route.scope for route in ROUTES}
    assert scopes <= {*api_keys.ENDPOINTS, "open", "any", "metrics", "admin", "server"}
    open_paths = {route.path for route in ROUTES if route.scope == "open"}
    assert open_paths == {"/health", "/v1/files/{file_id}/signed"}


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer x", "Basic eDp5", "Bearer cierzo_" + "a" * 12]
)
def test_without_a_good_key_nothing_is_told(keyed: httpx.Client, header: str) -> None:
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/metrics")):
        answer = keyed.request(method, path, headers={"authorization": header}, content=b"not read")
        data = check(answer, 401, "unauthorized", "Unauthorized")
        assert data["detail"] == "Unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert keyed.get("/health").status_code == 200
    assert keyed.get("/openapi.json").status_code == 200


def test_a_good_key_opens(keyed: httpx.Client, keyed_database: Database) -> None:
    _, spelling = api_keys.create(keyed_database, "good", DEFAULT_ID)
    for scheme in ("Bearer", "bearer"):
        headers = {"authorization": f"{scheme} {spelling}"}
        assert keyed.post(CHAT, json=body(), headers=headers).status_code == 200
        assert keyed.get("/v1/models", headers=headers).status_code == 200
    check(keyed.get("/metrics", headers=headers), 403, "forbidden", "admin key")


def test_the_sdk_sends_its_key(keyed_server: LiveServer, keyed_database: Database) -> None:
    _, spelling = api_keys.create(keyed_database, "sdk", DEFAULT_ID)
    with Mistral(api_key=spelling, server_url=keyed_server.url) as client:
        assert client.models.list().data
    with Mistral(api_key="wrong", server_url=keyed_server.url) as client:
        with pytest.raises(errors.SDKError) as refusal:
            client.models.list()
    assert refusal.value.status_code == 401


def test_a_confined_key(keyed: httpx.Client, keyed_database: Database) -> None:
    _, spelling = api_keys.create(
        keyed_database, "narrow", DEFAULT_ID, endpoints=["chat"], models=["other"]
    )
    headers = bearer(spelling)
    fim = {"model": "other", "prompt": "def f("}
    refusal = keyed.post("/v1/fim/completions", json=fim, headers=headers)
    check(refusal, 403, "forbidden", "'narrow' may not use fim, only chat")
    for unknown_or_not in ("tiny", "tiny-latest", "nowhere"):
        refusal = keyed.post(CHAT, json=body(model=unknown_or_not), headers=headers)
        check(refusal, 403, "forbidden", "may not use this model, only other")
        check(keyed.get(f"/v1/models/{unknown_or_not}", headers=headers), 403, "forbidden", "only")
    for name in ("other", "other-latest"):
        assert keyed.post(CHAT, json=body(model=name), headers=headers).status_code == 200
    shown = keyed.get("/v1/models", headers=headers).json()["data"]
    assert [card["id"] for card in shown] == ["other"]


def test_a_revoked_key_is_refused_within_its_memory(
    keyed: httpx.Client, keyed_database: Database
) -> None:
    key, spelling = api_keys.create(keyed_database, "brief", DEFAULT_ID)
    headers = bearer(spelling)
    assert keyed.get("/v1/models", headers=headers).status_code == 200
    api_keys.revoke(keyed_database, key.id)
    assert MEMORY_S <= 1
    assert eventually(lambda: keyed.get("/v1/models", headers=headers).status_code == 401)


def test_each_request_is_its_workspaces(
    keyed: httpx.Client, keyed_database: Database, keyed_engine: ScriptedEngine
) -> None:
    """The engine keys its prefix cache by that name."""
    team = workspaces.create(keyed_database, "team")
    _, spelling = api_keys.create(keyed_database, "ci", team.id)
    keyed.post(CHAT, json=body(), headers=bearer(spelling))
    fim = {"model": "tiny", "prompt": "def f("}
    keyed.post("/v1/fim/completions", json=fim, headers=bearer(spelling))
    texts = {"model": "tiny", "input": ["a", "b"]}
    keyed.post("/v1/embeddings", json=texts, headers=bearer(spelling))
    assert [request.workspace for request in keyed_engine.requests[-4:]] == 4 * [team.id]


def test_the_first_key_closes_an_open_server() -> None:
    with temporary_database() as database:
        engine = ScriptedEngine()
        with live_server([scripted_model(engine)], database=database) as server:
            with httpx.Client(base_url=server.url) as client:
                assert client.post(CHAT, json=body()).status_code == 200
                assert engine.requests[-1].workspace == DEFAULT_ID
                assert client.post(CHAT, json=body(), headers=bearer("any")).status_code == 200
                assert client.get("/metrics").status_code == 200
                api_keys.create(database, "first", DEFAULT_ID)
                assert eventually(lambda: client.get("/v1/models").status_code == 401)


def test_a_key_that_cannot_be_looked_up_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with temporary_database() as database:
        _, spelling = api_keys.create(database, "first", DEFAULT_ID)
        with live_server([scripted_model(ScriptedEngine())], database=database) as server:

            def away(work: object) -> None:
                raise StoreUnavailableError("the database is away")

            monkeypatch.setattr(database, "read", away)
            answer = httpx.get(server.url + "/v1/models", headers=bearer(spelling))
            check(answer, 503, "service_unavailable", "the database is away")
            assert answer.headers["retry-after"] == "5"
            assert httpx.get(server.url + "/health").status_code == 200


def test_keys_are_never_logged(
    keyed: httpx.Client,
    keyed_database: Database,
    keyed_engine: ScriptedEngine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    _, spelling = api_keys.create(keyed_database, "quiet", DEFAULT_ID)
    keyed_engine.script = lambda request: [ValueError("boom")]
    prompt = "my secret prompt"
    answer = keyed.post(
        CHAT, json=body(messages=[{"role": "user", "content": prompt}]), headers=bearer(spelling)
    )
    keyed_engine.script = lambda request: ["Hello there"]
    keyed.post(CHAT, json=body(), headers=bearer(spelling + "x"))
    assert answer.status_code == 500
    logged = "\n".join(
        f"{record.name}: {record.getMessage()} {record.exc_text}"
        for record in caplog.records
        if not record.name.startswith(("httpx", "httpcore"))  # the client's own
    )
    assert "boom" in logged
    assert spelling.rsplit("_")[2] not in logged and prompt not in logged
