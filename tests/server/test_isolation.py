"""Two workspaces on one real engine: neither learns of the other, neither starves the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from cierzo.engine import Engine
from cierzo.store import Database, api_keys, ledger, workspaces
from cierzo.store.ledger import Period
from cierzo.store.tables import DEFAULT_ID
from tests.server.test_auth import bearer
from tests.server.test_chat import CHAT, body
from tests.server.tiny_server import num_submitted, tekken, tiny_server
from tests.store.temporary import temporary_database
from tests.waiting import eventually

COLD = 2
"""Cached tokens where nothing was: those that begin every prompt, if there was another."""

Clients = tuple[httpx.Client, httpx.Client]


@pytest.fixture(scope="module")
def gate() -> threading.Event:
    """While it is not set, the model computes nothing."""
    gate = threading.Event()
    gate.set()
    return gate


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with temporary_database() as database:
        yield database


@pytest.fixture(scope="module")
def running(
    database: Database, tmp_path_factory: pytest.TempPathFactory, gate: threading.Event
) -> Iterator[tuple[Clients, Engine]]:
    """Clients of two workspaces, and their engine."""
    team = workspaces.create(database, "team").id
    keys = [bearer(api_keys.create(database, "key", of)[1]) for of in (DEFAULT_ID, team)]
    tokenizer = tekken(tmp_path_factory.mktemp("tekken"), "v13")
    with tiny_server(tokenizer, database=database, gate=gate, max_running=4) as (server, engine):
        with (
            httpx.Client(base_url=server.url, headers=keys[0]) as one,
            httpx.Client(base_url=server.url, headers=keys[1]) as other,
        ):
            yield (one, other), engine


def usage(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post(CHAT, json=body(**fields))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["usage"]
    return found


def test_a_cached_prefix_is_its_workspaces_alone(running: tuple[Clients, Engine]) -> None:
    (one, other), _ = running
    messages = [{"role": "user", "content": "What only one of them has ever asked. " * 10}]
    cached = [
        usage(client, messages=messages, max_tokens=1)["prompt_tokens_details"]["cached_tokens"]
        for client in (one, one, other, other)
    ]
    assert max(cached[0], cached[2]) <= COLD, "the other's first is as cold as anybody's"
    assert cached[1] == cached[3] > COLD


def test_no_other_endpoint_tells_of_a_prefix(running: tuple[Clients, Engine]) -> None:
    """Read or generated for one workspace, a text is cold for the other, wherever it is asked."""
    (one, other), _ = running
    text = "Another that only one of them has ever asked. " * 10

    def cached(client: httpx.Client, path: str, **fields: Any) -> int:
        answer = client.post(path, json={"model": "tiny", **fields})
        assert answer.status_code == 200, answer.text
        count: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return count

    moderation = {"model": "mistral-moderation-2603", "input": text}
    assert cached(one, "/v1/embeddings", input=text) <= COLD
    assert cached(one, "/v1/embeddings", input=text) > COLD
    assert cached(other, "/v1/embeddings", input=text) <= COLD
    first = cached(one, "/v1/moderations", **moderation)
    warm = cached(one, "/v1/moderations", **moderation)
    cold = cached(other, "/v1/moderations", **moderation)
    assert cold == first < warm, "what a request's own questions share, and no more"


def test_a_flood_does_not_starve_the_other(
    running: tuple[Clients, Engine], gate: threading.Event
) -> None:
    """One asks 40 at once, the other asks one: it is not the 41st."""
    (one, other), engine = running
    before = num_submitted(engine)
    ended: list[str] = []

    def ask(client: httpx.Client, name: str) -> None:
        usage(client, max_tokens=60, min_tokens=60)
        ended.append(name)

    with httpx.Client(
        base_url=one.base_url, headers=one.headers, limits=httpx.Limits()
    ) as flooding:
        gate.clear()
        asking = [threading.Thread(target=ask, args=(flooding, "flood")) for _ in range(40)]
        for thread in asking:
            thread.start()
        all_are_in = eventually(lambda: num_submitted(engine) == before + 40)
        asking.append(threading.Thread(target=ask, args=(other, "other")))
        asking[-1].start()
        all_are_in = all_are_in and eventually(lambda: num_submitted(engine) == before + 41)
        gate.set()
        for thread in asking:
            thread.join()
    assert all_are_in
    assert ended.index("other") < 20


def test_first_tokens_of_a_burst_come_in_turns(tmp_path: Path) -> None:
    """200 streams at once: 140 of one workspace first, then 30 of each of two others."""
    with temporary_database() as database:
        others = [workspaces.create(database, name).id for name in ("small", "smaller")]
        bearers = [bearer(api_keys.create(database, "k", of)[1]) for of in (DEFAULT_ID, *others)]
        tokenizer = tekken(tmp_path, "v13")
        with tiny_server(tokenizer, database=database, max_running=8) as (server, engine):
            first_tokens = asyncio.run(burst(server.url, engine, bearers))
    large, *small = (first_tokens.count(whose) for whose in range(3))
    assert (large, *small) == (140, 30, 30)
    when_all_came = max(i for i, whose in enumerate(first_tokens) if whose > 0)
    ahead = first_tokens[:when_all_came].count(0)
    # Turn by turn it would be 30; some of the large one's were running before.
    assert ahead <= 30 + 60, f"{ahead} of the large workspace's came before the small ones' last"


async def noting(answer: httpx.Response, note: Callable[[], None]) -> AsyncIterator[str]:
    """The lines of an answer; `note` is called for the first."""
    is_first = True
    async for line in answer.aiter_lines():
        if is_first:
            note()
        is_first = False
        yield line


async def burst(url: str, engine: Engine, bearers: list[dict[str, str]]) -> list[int]:
    """Whose first tokens came, in order."""
    order: list[int] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def ask(whose: int) -> None:
            fields = body(max_tokens=12, min_tokens=12, stream=True)
            async with client.stream("POST", CHAT, json=fields, headers=bearers[whose]) as answer:
                assert answer.status_code == 200
                lines = [line async for line in noting(answer, lambda: order.append(whose))]
                assert lines[-2] == "data: [DONE]"

        tasks = [asyncio.create_task(ask(0)) for _ in range(140)]
        while engine.stats().num_waiting < 50:
            await asyncio.sleep(0)
        tasks += [asyncio.create_task(ask(1 + i % 2)) for i in range(60)]
        await asyncio.gather(*tasks)
    return order


def test_each_sees_its_own_ledger(running: tuple[Clients, Engine], database: Database) -> None:
    (one, other), _ = running
    for client, number in ((one, 1), (other, 2)):
        before = {row.group: row.requests for row in rows(database)}
        for _ in range(number):
            usage(client, max_tokens=1)
        after = {row.group: row.requests for row in rows(database)}
        grown = {group: after[group] - before.get(group, 0) for group in after}
        assert sorted(grown.values())[-1] == sum(grown.values()) == number


def rows(database: Database) -> list[ledger.UsageSum]:
    return ledger.summarise(database, Period(), ["workspace"])
