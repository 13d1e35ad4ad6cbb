"""Every request that used compute has its row, once, before its answer ends."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from sqlalchemy import select

from cierzo.engine.request import GenerationRequest, SamplingParams, TokenEvent
from cierzo.errors import QueueFullError, StoreUnavailableError
from cierzo.ids import now_ms
from cierzo.server import metering
from cierzo.server.auth import Caller
from cierzo.server.completion import Usage
from cierzo.server.served_model import ServedModels
from cierzo.store import (
    Database,
    api_keys,
    ledger,
    ledger_writer,
    open_database,
    pricing,
    tables,
)
from cierzo.store.ledger import Period, UsageRecord
from cierzo.store.limits import Limits
from cierzo.store.pricing import Price
from cierzo.store.tables import DEFAULT_ID
from tests.server.conftest import scripted_model
from tests.server.live import LiveServer, live_server
from tests.server.scripted import EOS, Script, ScriptedEngine
from tests.server.test_auth import bearer
from tests.server.test_chat import CHAT, body, chunks
from tests.server.test_disconnect import ask_and_leave
from tests.store.temporary import temporary_database
from tests.waiting import eventually


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with temporary_database() as database:
        pricing.set_price(database, "tiny", Price(1_000_000, 2_000_000), now_ms())
        yield database


@pytest.fixture(scope="module")
def metered_engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture(scope="module")
def server(database: Database, metered_engine: ScriptedEngine) -> Iterator[LiveServer]:
    with live_server([scripted_model(metered_engine)], database=database) as server:
        yield server


@pytest.fixture
def engine(metered_engine: ScriptedEngine) -> ScriptedEngine:
    metered_engine.reset()
    return metered_engine


@pytest.fixture
def client(server: LiveServer, engine: ScriptedEngine) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as http:
        yield http


def row_of(database: Database, answer: httpx.Response) -> UsageRecord | None:
    return ledger.find(database, answer.headers["x-request-id"])


def has_row(database: Database, answer: httpx.Response) -> bool:
    return row_of(database, answer) is not None


def always(script: Script) -> Callable[[GenerationRequest], Script]:
    return lambda request: script


def count(database: Database) -> int:
    return ledger.total(database, Period()).requests


@pytest.mark.parametrize("stream", [False, True])
def test_an_answers_row_is_there_when_the_answer_is(
    client: httpx.Client, database: Database, engine: ScriptedEngine, stream: bool
) -> None:
    started_s = time.monotonic()
    answer = client.post(CHAT, json=body(stream=stream, n=2))
    took_ms = 1000 * (time.monotonic() - started_s)
    row = row_of(database, answer)
    usage = chunks(answer)[-1]["usage"] if stream else answer.json()["usage"]
    assert row is not None
    assert (row.workspace_id, row.key_id, row.model) == (DEFAULT_ID, None, "tiny")
    assert (row.endpoint, row.status, row.is_batch) == (CHAT, "ok", False)
    assert row.prompt_tokens == usage["prompt_tokens"]
    assert row.completion_tokens == usage["completion_tokens"] == 2 * len("Hello there")
    assert row.cached_tokens == usage["prompt_tokens_details"]["cached_tokens"] == 4
    fresh = row.prompt_tokens - 4
    # 1 micro per token in, a tenth for a cached one, 2 per token out; the half goes up.
    assert row.price_micros == (fresh * 10 + 4 + 5) // 10 + 2 * row.completion_tokens
    assert 0 <= row.duration_ms <= took_ms + 1
    if not stream:
        assert answer.headers["x-ratelimit-tokens-query-cost"] == str(usage["total_tokens"])


def test_refused_requests_have_no_row(
    client: httpx.Client, database: Database, engine: ScriptedEngine
) -> None:
    before = count(database)
    engine.script = lambda request: [QueueFullError("full", retry_after_s=1)]
    assert client.post(CHAT, json=body()).status_code == 429
    assert client.post(CHAT, json=body(model="none")).status_code == 400
    assert client.post(CHAT, content=b"{").status_code == 422
    assert client.get("/v1/models").status_code == 200
    engine.script = lambda request: ["ok"]
    client.post(CHAT, json=body())  # what came before is in the ledger by now
    assert count(database) == before + 1


def test_who_leaves_is_recorded(
    server: LiveServer, database: Database, engine: ScriptedEngine
) -> None:
    engine.script = lambda request: ["Hel", 60.0, "lo"]
    with httpx.Client(base_url=server.url) as client:
        message = {"role": "user", "content": "longer than what is cached"}
        asked = body(stream=True, messages=[message])
        with client.stream("POST", CHAT, json=asked) as answer:
            pieces = answer.iter_text()
            received = ""
            while '"content":"l"' not in received:
                received += next(pieces)
    assert eventually(lambda: row_of(database, answer) is not None)
    row = row_of(database, answer)
    assert row is not None
    assert (row.status, row.completion_tokens) == ("aborted", 3)
    assert row.price_micros >= 6


def test_who_leaves_before_the_first_token_pays_nothing(
    server: LiveServer, database: Database, engine: ScriptedEngine
) -> None:
    before = count(database)
    engine.script = lambda request: [60.0, "lo"]
    ask_and_leave(server.url + CHAT, body(), lambda: bool(engine.streams))
    assert eventually(lambda: count(database) == before + 1)
    query = select(tables.usage_records).order_by(tables.usage_records.c.request_id.desc())
    newest = database.read(lambda connection: connection.execute(query).first())
    assert newest is not None
    assert (newest.status, newest.completion_tokens, newest.price_micros) == ("aborted", 0, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_our_failures_cost_nothing(
    client: httpx.Client, database: Database, engine: ScriptedEngine, stream: bool
) -> None:
    stopped = TokenEvent(0, None, "error", error="the engine was stopped")
    scripts: list[Script] = [["He", stopped], [stopped], ["He", ValueError("boom")]]
    for script in scripts:
        engine.script = always(script)
        with client.stream("POST", CHAT, json=body(stream=stream)) as answer:
            try:
                answer.read()
            except httpx.RemoteProtocolError:
                assert stream and isinstance(script[-1], ValueError)
        assert eventually(partial(has_row, database, answer))
        row = row_of(database, answer)
        assert row is not None and (row.status, row.price_micros) == ("failed", 0)


def test_many_at_once_reconcile(
    server: LiveServer, database: Database, engine: ScriptedEngine
) -> None:
    engine.script = lambda request: ["x" * (1 + len(request.prompt_token_ids) % 7), EOS]
    before = ledger.total(database, Period())

    def ask(number: int) -> dict[str, Any]:
        with httpx.Client(base_url=server.url) as client:
            message = {"role": "user", "content": "y" * (number % 50 + 1)}
            stream = bool(number % 2)
            answer = client.post(CHAT, json=body(stream=stream, messages=[message]))
            last = chunks(answer)[-1] if stream else answer.json()
            usage: dict[str, Any] = last["usage"]
            return usage

    with ThreadPoolExecutor(20) as threads:
        usages = list(threads.map(ask, range(100)))
    after = ledger.total(database, Period())
    assert after.requests - before.requests == 100
    for field in ("prompt_tokens", "completion_tokens"):
        told = sum(usage[field] for usage in usages)
        assert getattr(after, field) - getattr(before, field) == told


def test_no_answer_ends_without_its_row(
    client: httpx.Client,
    database: Database,
    engine: ScriptedEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database goes away while an answer is computed, and comes back."""
    is_away = threading.Event()
    write = database.write

    def flaky(work: Any) -> Any:
        if is_away.is_set():
            raise StoreUnavailableError("away")
        return write(work)

    monkeypatch.setattr(database, "write", flaky)
    monkeypatch.setattr(metering, "PATIENCE_S", 0.2)
    monkeypatch.setattr(ledger_writer, "RETRY_S", 0.01)
    is_away.set()
    answer = client.post(CHAT, json=body())
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "database" in answer.json()["message"]
    with pytest.raises(httpx.RemoteProtocolError):  # no clean end without a row
        client.post(CHAT, json=body(stream=True))
    is_away.clear()
    assert eventually(lambda: row_of(database, answer) is not None)


def test_what_a_key_used_is_its_own(client: httpx.Client, engine: ScriptedEngine) -> None:
    with temporary_database() as database:
        key, spelling = api_keys.create(database, "ci", DEFAULT_ID)
        with live_server([scripted_model(engine)], database=database) as server:
            answer = httpx.post(server.url + CHAT, json=body(), headers=bearer(spelling))
        row = row_of(database, answer)
        assert row is not None and row.key_id == key.id


PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from cierzo.server.app import build_app
    from cierzo.server.run import Server, bind
    from cierzo.store import open_database
    from cierzo.store.files import FileStore
    from tests.server.conftest import scripted_model
    from tests.server.scripted import ScriptedEngine

    engine = ScriptedEngine(lambda request: ["Hel", 0.001, "lo"])
    with bind("127.0.0.1", 0) as listener:
        database = open_database(Path(sys.argv[1]), None)
        files = FileStore(database, Path(sys.argv[1]))
        app = build_app([scripted_model(engine)], database, files)
        Server(app, listener, lambda host, port: print(port, flush=True)).run_bound()
    """
)


def test_a_killed_server_has_a_row_for_every_answer(tmp_path: Path) -> None:
    """And no more than one for each request it was sent."""
    answered: dict[str, dict[str, Any]] = {}
    num_sent = 0

    async def ask(client: httpx.AsyncClient, stream: bool) -> None:
        nonlocal num_sent
        while True:
            num_sent += 1
            answer = await client.post(CHAT, json=body(stream=stream))
            if stream:
                if not answer.text.endswith("data: [DONE]\n\n"):
                    return
                usage = json.loads(answer.text.split("data: ")[-2])["usage"]
            else:
                usage = answer.json()["usage"]
            answered[answer.headers["x-request-id"]] = usage

    async def ask_until_killed(port: int, process: subprocess.Popen[str]) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            asks = [asyncio.ensure_future(ask(client, bool(n % 2))) for n in range(12)]
            target = len(answered) + 40
            while len(answered) < target:
                await asyncio.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            await asyncio.gather(*asks, return_exceptions=True)

    for _ in range(2):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            asyncio.run(ask_until_killed(int(process.stdout.readline()), process))
    database = open_database(tmp_path, None)
    for request_id, usage in answered.items():
        row = ledger.find(database, request_id)
        assert row is not None
        assert asdict(row)["prompt_tokens"] == usage["prompt_tokens"]
        assert row.completion_tokens == usage["completion_tokens"]
    assert len(answered) <= count(database) <= num_sent
    database.close()


def test_a_batch_line_is_half_price_and_its_row_its_callers_to_write(
    engine: ScriptedEngine,
) -> None:
    """Outside HTTP: a row in the transaction of whoever keeps the line, twice or not."""
    with temporary_database() as database:
        pricing.set_price(database, "tiny", Price(10**6, 10**6), now_ms())
        limits = Limits(requests_per_minute=0, max_concurrent=1)
        key, _ = api_keys.create(database, "ci", DEFAULT_ID, limits=limits)
        caller = Caller(DEFAULT_ID, key)

        async def compute(meter: metering.Metering) -> UsageRecord:
            rows: list[UsageRecord] = []
            metered = await meter.open(caller, "tiny", "job:7", CHAT, batch_rows=rows)
            metered.enter()
            request = GenerationRequest("job:7", (1, 2, 3, 4, 5, 6), SamplingParams())
            usage = Usage(len(request.prompt_token_ids))
            metered.begin(usage, usage.num_prompt_tokens)
            async for event in metered.submit(engine, request):
                usage.count(event)
            await metered.settle()
            metered.close()
            (record,) = rows
            return record

        async def run_twice() -> list[UsageRecord]:
            meter = metering.Metering(database, ServedModels([scripted_model(engine)]))
            try:
                return [await compute(meter) for _ in range(2)]
            finally:
                await meter.close()

        for record in asyncio.run(run_twice()):
            database.write(partial(ledger.insert_usage, records=[record]))
        (row,) = [ledger.find(database, "job:7")]
        assert row is not None and row.is_batch and row.key_id == key.id
        # 2 fresh and 4 cached tokens in, 11 out: (2 + 0.4 + 11) / 2, rounded once.
        assert (row.prompt_tokens, row.completion_tokens, row.price_micros) == (6, 11, 7)
        assert count(database) == 1
