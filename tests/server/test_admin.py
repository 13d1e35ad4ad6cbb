"""The administration over HTTP does what the command line does, for admin keys only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from cierzo.server.route_table import ADMIN_ROUTES
from cierzo.store import Database, api_keys
from cierzo.store.tables import DEFAULT_ID
from tests.server.conftest import scripted_model
from tests.server.live import live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_auth import bearer
from tests.server.test_chat import CHAT, body
from tests.server.test_errors import check
from tests.store.temporary import temporary_database

KEYS, WORKSPACES = "/v1/admin/api-keys", "/v1/admin/workspaces"
PRICES, USAGE = "/v1/admin/prices", "/v1/admin/usage"


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with temporary_database() as database:
        yield database


@pytest.fixture(scope="module")
def admin(database: Database) -> Iterator[httpx.Client]:
    _, spelling = api_keys.create(database, "root", DEFAULT_ID, is_admin=True)
    with live_server([scripted_model(ScriptedEngine())], database=database) as server:
        with httpx.Client(base_url=server.url, headers=bearer(spelling)) as http:
            yield http


def make(admin: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = admin.post(KEYS, json=fields)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_only_admin_keys_may(admin: httpx.Client) -> None:
    common = make(admin, name="common")["key"]
    for route in ADMIN_ROUTES:
        answer = admin.request(route.method, route.path, headers=bearer(common))
        check(answer, 403, "forbidden", "this needs an admin key")
        answer = admin.request(route.method, route.path, headers={"authorization": ""})
        assert answer.status_code == 401
    assert admin.get("/metrics").status_code == 200


def test_an_open_server_is_not_administered(client: httpx.Client) -> None:
    check(client.get(KEYS), 403, "forbidden", "cierzo keys create NAME --admin")


@pytest.mark.parametrize("edge", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_moment_has_a_date_everywhere(admin: httpx.Client, edge: str) -> None:
    """Such a one was stored, and no list could be shown from then on."""
    assert admin.post(KEYS, json={"name": "edge", "expiration": edge}).status_code == 422
    price = {"model": "tiny", "input_micros": 1, "output_micros": 1, "effective_at": edge}
    assert admin.post("/v1/admin/prices", json=price).status_code == 422
    assert admin.get(KEYS).status_code == admin.get("/v1/admin/prices").status_code == 200


def test_a_key_from_its_making_to_its_end(admin: httpx.Client) -> None:
    made = make(
        admin,
        name="short-lived",
        endpoints=["chat"],
        models=["tiny"],
        expiration="2999-01-01T00:00:00Z",
        limits={"requests_per_minute": 9},
    )
    headers = bearer(made["key"])
    assert admin.post(CHAT, json=body(), headers=headers).status_code == 200
    listed = admin.get(KEYS, params={"name": "short-lived"}).json()
    assert listed["total"] == 1
    assert listed["keys"][0] == {**made, "key": None}
    assert made["expiration_date"] == "2999-01-01T00:00:00Z"
    assert made["limits"]["requests_per_minute"] == 9
    path = f"{KEYS}/{made['key_id']}"
    changed = admin.patch(path, json={"limits": {"requests_per_minute": 0}}).json()
    assert changed["limits"]["requests_per_minute"] == 0
    assert admin.post(CHAT, json=body(), headers=headers).status_code == 429, "at once"
    assert admin.delete(path).json()["revoked_at"] is not None
    assert admin.post(CHAT, json=body(), headers=headers).status_code == 401, "at once"


def test_a_workspace_from_its_making_to_its_end(admin: httpx.Client) -> None:
    made = admin.post(WORKSPACES, json={"name": "team"}).json()
    key = make(admin, name="ci", workspace_id=made["id"])
    headers = bearer(key["key"])
    path = f"{WORKSPACES}/{made['id']}"
    assert admin.post(CHAT, json=body(), headers=headers).status_code == 200
    changed = admin.patch(path, json={"limits": {"requests_per_minute": 1}}).json()
    assert changed["limits"]["requests_per_minute"] == 1
    assert admin.post(CHAT, json=body(), headers=headers).status_code == 429, "at once"
    assert admin.get(WORKSPACES).json()["data"][-1] == changed
    its_keys = admin.get(KEYS, params={"workspace_id": made["id"]}).json()["keys"]
    assert [found["key_id"] for found in its_keys] == [key["key_id"]]
    assert admin.delete(path).json()["archived_at"] is not None
    assert admin.post(CHAT, json=body(), headers=headers).status_code == 401, "at once"


def test_prices_and_usage(admin: httpx.Client) -> None:
    shown = admin.post(PRICES, json={"model": "tiny", "input_micros": 0, "output_micros": 10**6})
    assert shown.json()["data"][-1]["output_micros"] == 10**6
    assert admin.get(PRICES).json() == shown.json()
    key = make(admin, name="spender")
    with_price = [
        admin.post(CHAT, json=body(), headers=bearer(key["key"])).json()["usage"] for _ in range(3)
    ]
    report = admin.get(USAGE, params={"by": ["model", "key"], "key_id": key["key_id"]}).json()
    (line,) = report["data"]
    assert line["group"] == {"model": "tiny", "key": f"spender ({key['key_id']})"}
    assert line["requests"] == report["total"]["requests"] == 3
    assert line["total_tokens"] == sum(usage["total_tokens"] for usage in with_price)
    assert report["currency"] == "USD"
    december = admin.get(USAGE, params={"year": 2020, "month": 12}).json()
    assert december["end_date"] == "2021-01-01T00:00:00Z"
    assert december["total"]["requests"] == 0 and december["data"] == []


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", KEYS, {"name": "x", "admin": True}, 422),
        ("POST", KEYS, {"name": ""}, 422),
        ("POST", KEYS, {"name": "two\nlines"}, 400),
        ("POST", KEYS, {"name": "x", "endpoints": ["chats"]}, 400),
        ("POST", KEYS, {"name": "x", "workspace_id": "\0"}, 404),
        ("POST", KEYS, {"name": "x", "limits": {"requests_per_hour": 1}}, 422),
        ("POST", KEYS, {"name": "x", "limits": {"requests_per_minute": 2**40}}, 400),
        ("POST", KEYS, {"name": "root"}, 400),
        ("PATCH", KEYS + "/none", {"limits": {}}, 404),
        ("PATCH", KEYS + "/%00", {"limits": {}}, 404),
        ("DELETE", KEYS + "/..%2F..", None, 404),
        ("POST", WORKSPACES, {"name": "default"}, 400),
        ("DELETE", WORKSPACES + "/default", None, 400),
        ("DELETE", WORKSPACES + "/%F0%9F", None, 404),
        ("POST", PRICES, {"model": "x", "input_micros": -1, "output_micros": 0}, 422),
        ("POST", PRICES, {"model": "x", "input_micros": 10**13, "output_micros": 0}, 400),
        ("GET", USAGE + "?month=13", None, 400),
        ("GET", USAGE + "?year=abc", None, 400),
        ("GET", USAGE + "?by=colour", None, 400),
        ("GET", KEYS + "?limit=-1", None, 400),
        ("GET", KEYS + "?workspace_id=%00", None, 200),
    ],
)
def test_what_makes_no_sense_is_refused(
    admin: httpx.Client, method: str, path: str, content: Any, status: int
) -> None:
    answer = admin.request(method, path, json=content)
    assert answer.status_code == status, answer.text
