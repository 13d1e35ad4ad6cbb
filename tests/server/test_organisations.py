"""Two organisations on one server: an admin key of one never sees or changes what is another's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx2 as httpx
import pytest

from cierzo.server.route_table import ADMIN_ROUTES
from cierzo.store import Database, api_keys, organisations, workspaces
from cierzo.store.limits import Limits
from cierzo.store.tables import DEFAULT_ID
from tests.server.conftest import scripted_model
from tests.server.live import live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_admin import KEYS, USAGE, WORKSPACES
from tests.server.test_auth import bearer
from tests.server.test_chat import CHAT, body
from tests.server.test_errors import check
from tests.store.temporary import temporary_database

ORGANISATIONS = "/v1/admin/organisations"


@dataclass
class Place:
    """A server with two organisations, clients of the server's admin and of acme's, and ids."""

    database: Database
    root: httpx.Client
    acme: httpx.Client
    acme_id: str
    team_id: str


@pytest.fixture
def place() -> Iterator[Place]:
    with temporary_database() as database:
        acme = organisations.create(database, "acme")
        team = workspaces.create(database, "team", organisation_id=acme.id)
        spellings = [
            api_keys.create(database, "admin", of, is_admin=True)[1] for of in (DEFAULT_ID, team.id)
        ]
        with live_server([scripted_model(ScriptedEngine())], database=database) as server:
            root, its_own = (
                httpx.Client(base_url=server.url, headers=bearer(spelling), timeout=20)
                for spelling in spellings
            )
            with root, its_own:
                yield Place(database, root, its_own, acme.id, team.id)


def test_an_organisation_from_its_making_to_its_end(place: Place) -> None:
    made = place.root.post(ORGANISATIONS, json={"name": "brief"}).json()
    team = place.root.post(WORKSPACES, json={"name": "t", "organisation_id": made["id"]}).json()
    assert team["organisation_id"] == made["id"]
    key = place.root.post(KEYS, json={"name": "ci", "workspace_id": "brief/t"}).json()
    assert (key["workspace"], key["organisation"]) == ("brief/t", "brief")
    headers = bearer(key["key"])
    assert place.root.post(CHAT, json=body(), headers=headers).status_code == 200
    path = f"{ORGANISATIONS}/{made['id']}"
    limits = {"limits": {"requests_per_minute": 1}}
    changed = place.root.patch(path, json=limits).json()
    assert changed["limits"]["requests_per_minute"] == 1
    refusal = place.root.post(CHAT, json=body(), headers=headers)
    check(refusal, 429, "rate_limited", "the organisation 'brief' may use 1 requests")
    assert place.root.delete(path).json()["archived_at"] is not None
    assert place.root.post(CHAT, json=body(), headers=headers).status_code == 401, "at once"
    assert [one["name"] for one in place.root.get(ORGANISATIONS).json()["data"]] == [
        *("default", "acme", "brief"),
    ]
    assert place.root.delete(ORGANISATIONS + "/default").status_code == 400


def test_what_is_the_servers_is_not_an_organisations(place: Place) -> None:
    others = [route for route in ADMIN_ROUTES if route.scope == "server"]
    assert {route.path for route in others} >= {ORGANISATIONS, "/v1/admin/prices"}
    for route in others:
        refusal = place.acme.request(route.method, route.path)
        check(refusal, 403, "forbidden", "an admin key of the default one")
    check(place.acme.get("/metrics"), 403, "forbidden", "an admin key of the default one")


def test_an_admin_key_sees_its_organisation(place: Place) -> None:
    root, acme = place.root, place.acme
    assert [one["id"] for one in acme.get(ORGANISATIONS).json()["data"]] == [place.acme_id]
    assert [one["id"] for one in acme.get(WORKSPACES).json()["data"]] == [place.team_id]
    keys = acme.get(KEYS).json()
    assert {key["organisation_id"] for key in keys["keys"]} == {place.acme_id}
    assert keys["total"] < root.get(KEYS).json()["total"]
    assert acme.get(KEYS, params={"workspace_id": DEFAULT_ID}).json()["total"] == 0
    for client in (root, acme, acme):
        assert client.post(CHAT, json=body()).status_code == 200
    report = acme.get(USAGE, params={"by": "workspace"}).json()
    assert [line["group"]["workspace"] for line in report["data"]] == ["acme/team"]
    assert report["total"]["requests"] == 2
    assert acme.get(USAGE, params={"workspace_id": DEFAULT_ID}).json()["total"]["requests"] == 0
    of_acme = root.get(USAGE, params={"organisation_id": place.acme_id}).json()
    assert of_acme["total"] == report["total"]
    assert acme.get(USAGE, params={"organisation_id": DEFAULT_ID}).status_code == 404


def test_an_admin_key_changes_its_organisation_only(place: Place) -> None:
    acme = place.acme
    (foreign,) = [key for key in api_keys.list_all(place.database) if key.is_server_admin]
    limits = {"limits": {"requests_per_minute": 0}}
    assert acme.patch(f"{KEYS}/{foreign.id}", json=limits).status_code == 404
    assert acme.delete(f"{KEYS}/{foreign.id}").status_code == 404
    assert acme.patch(f"{WORKSPACES}/default", json=limits).status_code == 404
    assert acme.delete(f"{WORKSPACES}/default").status_code == 404
    assert acme.post(KEYS, json={"name": "x", "workspace_id": DEFAULT_ID}).status_code == 404
    refusal = acme.post(WORKSPACES, json={"name": "x", "organisation_id": DEFAULT_ID})
    assert refusal.status_code == 404
    made = acme.post(WORKSPACES, json={"name": "more"}).json()
    assert made["organisation_id"] == place.acme_id
    assert acme.delete(f"{WORKSPACES}/more").json()["archived_at"] is not None
    key = acme.post(KEYS, json={"name": "second", "is_admin": True}).json()
    assert key["workspace_id"] == place.team_id
    refusal = acme.get("/v1/admin/prices", headers=bearer(key["key"]))
    check(refusal, 403, "forbidden", "an admin key of the default one")


def test_its_limits_hold_for_all_its_workspaces() -> None:
    with temporary_database() as database:
        acme = organisations.create(database, "acme", Limits(requests_per_minute=2))
        spellings = []
        for name in ("one", "other"):
            workspace = workspaces.create(database, name, organisation_id=acme.id)
            spellings.append(api_keys.create(database, "ci", workspace.id)[1])
        _, elsewhere = api_keys.create(database, "ci", DEFAULT_ID)
        with live_server([scripted_model(ScriptedEngine())], database=database) as server:
            with httpx.Client(base_url=server.url, timeout=20) as client:

                def ask(spelling: str) -> httpx.Response:
                    return client.post(CHAT, json=body(), headers=bearer(spelling))

                assert [ask(spelling).status_code for spelling in spellings] == [200, 200]
                for spelling in spellings:
                    check(ask(spelling), 429, "rate_limited", "the organisation 'acme' may use 2")
                assert ask(elsewhere).status_code == 200
