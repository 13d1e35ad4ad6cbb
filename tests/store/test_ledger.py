"""Rows are written once and never lost once told, and add up to the answers' usage."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import URL, select

from cierzo.errors import StoreUnavailableError
from cierzo.store import api_keys, ledger, ledger_writer, workspaces
from cierzo.store.db import Database
from cierzo.store.ledger import DAY_MS, Period, UsageRecord, UsageSum
from cierzo.store.ledger_writer import LedgerWriter
from cierzo.store.tables import DEFAULT_ID, usage_records


def record(request_id: str, **changes: Any) -> UsageRecord:
    plain = UsageRecord(
        request_id=request_id,
        created_at_ms=1000,
        workspace_id=DEFAULT_ID,
        key_id=None,
        model="tiny",
        endpoint="/v1/chat/completions",
        status="ok",
        is_batch=False,
        prompt_tokens=10,
        cached_tokens=4,
        completion_tokens=3,
        duration_ms=20,
        price_micros=7,
    )
    return replace(plain, **changes)


def put(database: Database, *records: UsageRecord) -> None:
    database.write(lambda connection: ledger.insert_usage(connection, records))


def test_a_row_is_written_once(database: Database) -> None:
    put(database, record("a"))
    put(database, record("a", price_micros=999), record("b"))
    assert ledger.find(database, "a") == record("a")
    assert ledger.total(database, Period()) == UsageSum((), 2, 20, 8, 6, 14)
    assert ledger.find(database, "c") is None


def test_sums_by_anything(database: Database) -> None:
    team = workspaces.create(database, "team")
    key, _ = api_keys.create(database, "ci", team.id)
    put(
        database,
        record("a", created_at_ms=DAY_MS * 2),
        record("b", created_at_ms=DAY_MS * 3 - 1, model="big", endpoint="/v1/fim/completions"),
        record("c", created_at_ms=DAY_MS * 3, workspace_id=team.id, key_id=key.id),
    )
    one = (10, 4, 3, 7)
    two = (20, 8, 6, 14)
    assert ledger.summarise(database, Period(), ["day"]) == [
        UsageSum(("1970-01-03",), 2, *two),
        UsageSum(("1970-01-04",), 1, *one),
    ]
    assert ledger.summarise(database, Period(), ["key"]) == [
        UsageSum((f"ci ({key.id})",), 1, *one),
        UsageSum(("no key",), 2, *two),
    ]
    assert ledger.summarise(database, Period(), ["workspace", "model"]) == [
        UsageSum(("default", "big"), 1, *one),
        UsageSum(("default", "tiny"), 1, *one),
        UsageSum(("team", "tiny"), 1, *one),
    ]
    of_team = Period(workspace_id=team.id)
    assert ledger.summarise(database, of_team, ["endpoint"]) == [
        UsageSum(("/v1/chat/completions",), 1, *one)
    ]
    assert ledger.total(database, Period(key_id=key.id)).requests == 1
    assert ledger.total(database, Period(DAY_MS * 2, DAY_MS * 3)).requests == 2
    assert ledger.total(database, Period(DAY_MS * 9)) == UsageSum((), 0, 0, 0, 0, 0)


def test_only_what_was_charged(database: Database) -> None:
    put(
        database,
        record("ok"),
        record("failed", status="failed"),
        record("left early", status="aborted", completion_tokens=0),
        record("left late", status="aborted"),
    )
    put(database, record("cut off", status="aborted", is_batch=True))
    assert ledger.total(database, Period(), charged_only=True).requests == 2

    def is_charged(status: str, tokens: int, *, is_batch: bool = False) -> bool:
        return ledger.is_charged(status, tokens, is_batch=is_batch)

    assert is_charged("ok", 0) and is_charged("ok", 0, is_batch=True) and is_charged("aborted", 1)
    assert not is_charged("failed", 5) and not is_charged("aborted", 0)
    assert not is_charged("aborted", 1, is_batch=True)


def test_the_writer_writes_all_it_was_given(database: Database) -> None:
    writer = LedgerWriter(database)
    futures = [writer.put(record(f"{number}")) for number in range(700)]
    futures[0].result(20)
    writer.close()
    assert all(future.done() for future in futures)
    assert ledger.total(database, Period()).requests == 700
    writer.close()


def test_a_bad_row_keeps_no_other_out(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    writer = LedgerWriter(database)
    good, bad = record("good"), record("bad", workspace_id="nobody")
    futures = [writer.put(row) for row in (good, bad, replace(good, request_id="too"))]
    writer.close()
    assert [future.exception() is None for future in futures] == [True, False, True]
    assert "request_id='bad'" in caplog.text
    assert ledger.total(database, Period()).requests == 2


def test_rows_wait_while_the_database_is_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_away = True
    tries = threading.Semaphore(0)

    class Flaky:
        def write(self, work: Any) -> None:
            tries.release()
            if is_away:
                raise StoreUnavailableError("away")
            database.write(work)

    monkeypatch.setattr(ledger_writer, "RETRY_S", 0.01)
    writer = LedgerWriter(Flaky())  # type: ignore[arg-type]
    future = writer.put(record("patient"))
    for _ in range(3):
        assert tries.acquire(timeout=120)
    assert not future.done()
    is_away = False
    future.result(120)
    assert ledger.find(database, "patient") is not None
    is_away = True
    late = writer.put(record("too late"))
    writer.close()
    assert isinstance(late.exception(), StoreUnavailableError)


KILLED = textwrap.dedent(
    """
    import sys
    from sqlalchemy import make_url
    from cierzo.store.db import Database
    from cierzo.store.ledger_writer import LedgerWriter
    from tests.store.test_ledger import record

    writer = LedgerWriter(Database(make_url(sys.argv[1])))
    for number in range(int(sys.argv[2]), 10**9):
        future = writer.put(record(str(number)))
        if number % 3 == 0:
            future.result()
            print(number, flush=True)
    """
)


def test_a_kill_loses_no_row_that_was_told(database: Database, url: URL) -> None:
    told: list[int] = []
    start = 0
    for _ in range(3):
        spelled = url.render_as_string(hide_password=False)
        command = [sys.executable, "-c", KILLED, spelled, str(start)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told += [int(process.stdout.readline()) for _ in range(random.randint(5, 30))]
            process.send_signal(signal.SIGKILL)
            told += [int(line) for line in process.stdout.read().split()]
        start = told[-1]  # sent again, as by a client that never saw the answer's end
    query = select(usage_records.c.request_id)
    kept = database.read(lambda connection: connection.scalars(query).all())
    assert {str(number) for number in range(max(told) + 1)} <= set(kept)
    assert len(kept) == len(set(kept))
