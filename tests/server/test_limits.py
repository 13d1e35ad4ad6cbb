"""Limits of a key and of its workspace: a minute, a month, money, at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cierzo.ids import now_ms
from cierzo.server import limiter
from cierzo.server.config import ServerConfig
from cierzo.server.limiter import Window, month_start_ms
from cierzo.store import Database, api_keys, pricing, workspaces
from cierzo.store.limits import Limits
from cierzo.store.pricing import Price
from cierzo.store.tables import DEFAULT_ID
from tests.server.conftest import scripted_model
from tests.server.live import live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_auth import bearer
from tests.server.test_chat import CHAT, body
from tests.server.test_errors import check
from tests.store.temporary import temporary_database
from tests.waiting import eventually

TOKENS = 3 + len("Hello there")  # of each request here


@contextmanager
def limited(
    limits: Limits | None = None,
    workspace_limits: Limits | None = None,
    *,
    engine: ScriptedEngine | None = None,
    config: ServerConfig | None = None,
) -> Iterator[tuple[httpx.Client, Database]]:
    """A server, and a client with a key that has these limits."""
    with temporary_database() as database:
        pricing.set_price(database, "tiny", Price(10**9, 10**9, 100), now_ms())  # 1000 micros each
        workspaces.set_limits(database, DEFAULT_ID, workspace_limits or Limits())
        _, spelling = api_keys.create(database, "ci", DEFAULT_ID, limits=limits)
        models = [scripted_model(engine or ScriptedEngine())]
        with live_server(models, config, database) as server:
            with httpx.Client(base_url=server.url, headers=bearer(spelling)) as client:
                yield client, database


def test_requests_per_minute() -> None:
    with limited(Limits(requests_per_minute=2)) as (client, _):
        for remaining in ("1", "0"):
            answer = client.post(CHAT, json=body(stream=remaining == "0"))
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-req-minute"] == "2"
            assert answer.headers["x-ratelimit-remaining-req-minute"] == remaining
        refusal = client.post(CHAT, json=body())
        data = check(refusal, 429, "rate_limited", "Rate limit exceeded: the key 'ci'")
        assert data["code"] == "1300"
        assert 0 < int(refusal.headers["retry-after"]) <= 60
        assert refusal.headers["x-ratelimit-remaining-req-minute"] == "0"
        assert client.get("/v1/models").status_code == 200, "which computes nothing"


def test_tokens_per_minute() -> None:
    with limited(Limits(tokens_per_minute=20)) as (client, _):
        answer = client.post(CHAT, json=body())
        assert answer.headers["x-ratelimit-limit-tokens-minute"] == "20"
        assert answer.headers["x-ratelimit-remaining-tokens-minute"] == str(20 - TOKENS)
        assert answer.headers["x-ratelimit-tokens-query-cost"] == str(TOKENS)
        longer = body(messages=[{"role": "user", "content": "0123456789"}])
        check(client.post(CHAT, json=longer), 429, "rate_limited", "20 tokens per minute")
        too_long = body(messages=[{"role": "user", "content": "0123456789" * 3}])
        refusal = client.post(CHAT, json=too_long)
        check(refusal, 429, "rate_limited", "31 tokens are over the 20")
        assert "retry-after" not in refusal.headers, "waiting would not help"
        assert client.post(CHAT, json=body()).status_code == 200, "let in, it ends"
        check(client.post(CHAT, json=body()), 429, "rate_limited", "per minute")


def test_the_workspaces_limits_hold_for_all_its_keys() -> None:
    with limited(workspace_limits=Limits(requests_per_minute=2)) as (client, database):
        _, other = api_keys.create(database, "other", DEFAULT_ID)
        assert client.post(CHAT, json=body()).status_code == 200
        assert client.post(CHAT, json=body(), headers=bearer(other)).status_code == 200
        for headers in ({}, bearer(other)):
            refusal = client.post(CHAT, json=body(), headers=headers)
            check(refusal, 429, "rate_limited", "the workspace 'default' may use 2 requests")
        team = workspaces.create(database, "team")
        _, elsewhere = api_keys.create(database, "ci", team.id)
        assert client.post(CHAT, json=body(), headers=bearer(elsewhere)).status_code == 200


def test_a_budget_warns_and_then_ends() -> None:
    cost = 1000 * TOKENS
    with limited(Limits(budget_micros_month=2 * cost)) as (client, database):
        assert "x-cierzo-budget-warning" not in client.post(CHAT, json=body()).headers
        warned = client.post(CHAT, json=body())
        assert warned.headers["x-cierzo-budget-warning"] == "100 % of the month's $0.028"
        check(client.post(CHAT, json=body()), 402, "budget_exceeded", "the key 'ci' is spent")
        (key,) = api_keys.list_all(database)
        api_keys.set_limits(database, key.id, Limits(budget_micros_month=9 * cost))
        assert eventually(lambda: client.post(CHAT, json=body()).status_code == 200)


def test_months_are_the_ledgers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was used before the server started, or through another one, counts."""
    monkeypatch.setattr(limiter, "MONTH_MEMORY_S", 0.0)
    with limited(Limits(tokens_per_month=TOKENS)) as (client, database):
        answer = client.post(CHAT, json=body())
        assert answer.headers["x-ratelimit-remaining-tokens-month"] == "0"
        with live_server([scripted_model(ScriptedEngine())], database=database) as another:
            refusal = httpx.post(another.url + CHAT, json=body(), headers=client.headers)
        check(refusal, 429, "rate_limited", "has used its 14 tokens of this month")
        assert 0 < int(refusal.headers["retry-after"]) <= 31 * 86_400
        # A new month begins with nothing used.
        monkeypatch.setattr(limiter, "month_start_ms", lambda ahead=0: now_ms() + 1)
        assert client.post(CHAT, json=body()).status_code == 200


def test_so_many_at_once() -> None:
    rest = threading.Event()
    engine = ScriptedEngine(lambda request: [rest, "ok"])
    with limited(Limits(max_concurrent=1), engine=engine) as (client, _):
        first = threading.Thread(target=client.post, args=(CHAT,), kwargs={"json": body()})
        first.start()
        assert eventually(lambda: len(engine.requests) == 1)
        refusal = client.post(CHAT, json=body())
        check(refusal, 429, "rate_limited", "may have 1 requests at once")
        assert refusal.headers["retry-after"] == "1"
        rest.set()
        first.join()
        engine.script = lambda request: ["ok"]
        for stream in (False, True):  # every end makes room again, also a failed one's
            client.post(CHAT, json=body(model="nothing"))
            client.post(CHAT, json=body(max_tokens=10**6))
            assert client.post(CHAT, json=body(stream=stream)).status_code == 200


def test_one_workspace_leaves_places_for_the_others() -> None:
    rest = threading.Event()
    engine = ScriptedEngine(lambda request: ["ok" if len(engine.requests) == 3 else rest, "ok"])
    with limited(engine=engine, config=ServerConfig(max_open_per_workspace=3)) as (
        client,
        database,
    ):
        team = workspaces.create(database, "team")
        _, other = api_keys.create(database, "ci", team.id)
        flood = [
            threading.Thread(target=client.post, args=(CHAT,), kwargs={"json": body()})
            for _ in range(3)
        ]
        for thread in flood:
            thread.start()
        assert eventually(lambda: len(engine.requests) == 3)
        refusal = client.post(CHAT, json=body())
        check(refusal, 429, "rate_limited", "has 3 requests here already")
        assert client.post(CHAT, json=body(), headers=bearer(other)).status_code == 200
        rest.set()
        for thread in flood:
            thread.join()


def test_without_limits_there_are_no_limit_headers() -> None:
    with limited() as (client, _):
        answer = client.post(CHAT, json=body())
    named = [name for name in answer.headers if name.startswith("x-ratelimit")]
    assert named == ["x-ratelimit-tokens-query-cost"]


amounts = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=30)


@given(amounts, st.integers(1, 9), st.integers(1, 30))
def test_after_the_wait_it_fits_and_not_before(
    steps: list[tuple[int, int]], amount: int, limit: int
) -> None:
    window, now_s = Window(), 100
    for pause_s, added in steps:
        now_s += pause_s
        if window.used(now_s) + added <= limit:
            window.add(now_s, added)
    wait_s = window.wait_s(now_s, amount, limit)
    if amount > limit:
        assert wait_s is None
        return
    assert wait_s is not None and wait_s <= 60
    if wait_s:
        assert window.wait_s(now_s + wait_s - 1, amount, limit) == 1
    assert window.used(now_s + wait_s) + amount <= limit


def test_a_month_begins_on_the_first_in_utc() -> None:
    start, following = month_start_ms(), month_start_ms(1)
    assert start <= now_ms() < following
    assert time.gmtime(start / 1000)[2:6] == time.gmtime(following / 1000)[2:6] == (1, 0, 0, 0)
    assert time.gmtime(month_start_ms(12) / 1000)[1] == time.gmtime(start / 1000)[1]
    assert 28 <= (following - start) / 86_400_000 <= 31
