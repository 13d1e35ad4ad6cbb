"""A clock that is set back or forth while a server runs."""

from __future__ import annotations

import time
from functools import partial

import httpx2 as httpx
import pytest

from cierzo.ids import now_ms
from cierzo.store import api_keys, ledger
from cierzo.store.ledger import Period
from cierzo.store.limits import Limits
from cierzo.store.tables import DEFAULT_ID
from tests.server.test_auth import bearer
from tests.server.test_chat import CHAT, body
from tests.server.test_limits import TOKENS, limited
from tests.waiting import eventually

DAY_S = 86_400


def jump(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """All that asks for the date gets it this much later; the monotonic clock goes on."""
    real_s, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real_s() + seconds)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(seconds * 1e9))


@pytest.mark.parametrize("seconds", [-DAY_S, DAY_S])
def test_limits_and_sums_hold(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    with limited(Limits(requests_per_minute=3)) as (client, database):
        assert client.post(CHAT, json=body()).status_code == 200
        jump(monkeypatch, seconds)
        for expected in (200, 200, 429):
            assert client.post(CHAT, json=body()).status_code == expected
        whole = ledger.total(database, Period())
        assert (whole.requests, whole.total_tokens) == (3, 3 * TOKENS)


def test_lists_keep_their_order_through_a_jump_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with limited() as (client, _):
        made = []
        for seconds in (0, -DAY_S, 0):
            with monkeypatch.context() as patch:
                jump(patch, seconds)
                for name in ("a.txt", "b.txt"):
                    answer = client.post("/v1/files", files={"file": (name, b"x")})
                    made.append(answer.json()["id"])
        listed = [file["id"] for file in client.get("/v1/files").json()["data"]]
        assert listed == made[::-1]
        page = client.get("/v1/files", params={"after": made[2], "limit": 2}).json()["data"]
        assert [file["id"] for file in page] == [made[1], made[0]]


def answers(client: httpx.Client, headers: dict[str, str], status: int) -> bool:
    return client.get("/v1/models", headers=headers).status_code == status


def test_what_has_ended_by_the_clock_is_back_when_it_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dates are the clock's: nothing remembers that a key or a file had been over."""
    with limited() as (client, database):
        ends_ms = now_ms() + 3_600_000
        _, spelling = api_keys.create(database, "short", DEFAULT_ID, expires_at_ms=ends_ms)
        for seconds, status in ((0, 200), (7200, 401), (-DAY_S, 200)):
            with monkeypatch.context() as patch:
                jump(patch, seconds)
                headers = bearer(spelling)
                assert eventually(partial(answers, client, headers, status))
