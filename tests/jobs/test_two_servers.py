"""Two servers, each a process of its own, on one PostgreSQL and one data folder."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx2 as httpx
import psycopg
import pytest
from sqlalchemy import make_url

from cierzo.ids import now_ms
from cierzo.store import Database, api_keys, ledger, open_database, pricing
from cierzo.store.ledger import Period
from cierzo.store.limits import Limits
from cierzo.store.pricing import Price
from cierzo.store.tables import DEFAULT_ID
from tests.jobs.test_batch import create, ended, job_of, requests
from tests.server.test_auth import bearer
from tests.server.test_chat import CHAT, body
from tests.server.test_errors import check
from tests.waiting import eventually

PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from cierzo.jobs import worker
    from cierzo.server import limiter
    from cierzo.server.app import build_app
    from cierzo.server.run import Server, bind
    from cierzo.store import open_database
    from cierzo.store.files import FileStore
    from tests.server.conftest import scripted_model
    from tests.server.scripted import ScriptedEngine

    worker.LOOK_S = limiter.MONTH_MEMORY_S = 0.05
    data, url = Path(sys.argv[1]), sys.argv[2]
    engine = ScriptedEngine(lambda request: ["Hel", 0.05, "lo"])
    with bind("127.0.0.1", 0) as listener:
        database = open_database(data, url)
        app = build_app(
            [scripted_model(engine)], database, FileStore(database, data),
            background=worker.run_jobs,
        )
        Server(app, listener, lambda host, port: print(port, flush=True)).run_bound()
    """
)
NUM_LINES = 300


@dataclass
class Running:
    """One of the servers. `num_answered` is how many requests and lines it has computed."""

    process: subprocess.Popen[str]
    client: httpx.Client

    def num_answered(self) -> int:
        lines = self.client.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith("cierzo_request_finished_total{")]
        return round(sum(float(line.rpartition(" ")[2]) for line in found))


Pair = tuple[Running, Running, Database]


@dataclass
class Servers:
    """`start` begins so many more, side by side."""

    running: list[Running]
    start: Callable[[int], list[Running]]
    database: Database


@pytest.fixture(scope="module")
def servers(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(b"CREATE DATABASE two_servers")
    url = make_url(postgres_url).set(database="two_servers").render_as_string(False)
    data = tmp_path_factory.mktemp("data")
    with ExitStack() as stack:
        database = open_database(data, url)
        stack.callback(database.close)
        _, spelling = api_keys.create(database, "admin", DEFAULT_ID, is_admin=True)

        def start(number: int) -> list[Running]:
            command = [sys.executable, "-c", PROGRAM, str(data), url]
            processes = [
                stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
                for _ in range(number)
            ]
            for process in processes:
                stack.callback(process.kill)
            started = []
            for process in processes:
                assert process.stdout is not None
                base = f"http://127.0.0.1:{process.stdout.readline().strip()}"
                client = httpx.Client(base_url=base, headers=bearer(spelling), timeout=20)
                started.append(Running(process, stack.enter_context(client)))
            return started

        yield Servers([], start, database)


@pytest.fixture
def pair(servers: Servers) -> Pair:
    """Both servers, whatever other tests killed."""
    alive = [server for server in servers.running if server.process.poll() is None]
    servers.running = [*alive, *servers.start(2 - len(alive))]
    return servers.running[0], servers.running[1], servers.database


def test_what_limits_hold_over_both(pair: Pair) -> None:
    """As decision 0063 says: a minute's for each server, a month's for all of them."""
    one, other, database = pair
    pricing.set_price(database, "tiny", Price(10**6, 10**6), now_ms())
    _, brisk = api_keys.create(database, "brisk", DEFAULT_ID, limits=Limits(requests_per_minute=2))
    _, poor = api_keys.create(database, "poor", DEFAULT_ID, limits=Limits(budget_micros_month=1))

    def ask(server: Running, spelling: str) -> httpx.Response:
        return server.client.post(CHAT, json=body(), headers=bearer(spelling))

    for server in (one, other):
        assert [ask(server, brisk).status_code for _ in range(3)] == [200, 200, 429]
    assert ask(one, poor).status_code == 200
    assert eventually(lambda: ask(other, poor).status_code == 402)
    check(ask(one, poor), 402, "budget_exceeded", "the key 'poor' is spent")
    assert ledger.total(database, Period(key_id=api_keys.find(database, "poor").id)).requests <= 2


def test_a_job_is_one_servers_until_that_is_killed(pair: Pair) -> None:
    one, other, database = pair
    before = one.num_answered(), other.num_answered()
    job_id = create(one.client, requests=requests(NUM_LINES))["id"]

    def num_done() -> int:
        done: int = job_of(one.client, job_id)["completed_requests"]
        return done

    assert eventually(lambda: num_done() > 40)
    is_ones = one.num_answered() > before[0]
    worker, idle = (one, other) if is_ones else (other, one)
    assert idle.num_answered() == before[is_ones], "nothing is done twice"
    worker.process.kill()
    worker.process.wait()
    over = ended(idle.client, job_id)
    assert idle.num_answered() > before[is_ones]
    assert (over["status"], over["succeeded_requests"]) == ("SUCCESS", NUM_LINES)
    assert [line["custom_id"] for line in over["outputs"]] == [f"c{n}" for n in range(NUM_LINES)]
    total = ledger.total(database, Period(is_batch=True))
    usages = [line["response"]["body"]["usage"] for line in over["outputs"]]
    assert total.requests == NUM_LINES
    assert total.total_tokens == sum(usage["total_tokens"] for usage in usages)
