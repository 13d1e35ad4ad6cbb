"""A job whose model lives on a second server: half price, its pace the upstream's, none twice."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2 as httpx
import pytest

from cierzo.errors import QueueFullError
from cierzo.jobs.worker import run_jobs
from cierzo.store import Database, ledger
from cierzo.store.ledger import Period
from tests.jobs.conftest import PRICE
from tests.jobs.test_batch import create, ended, requests
from tests.server.conftest import scripted_model
from tests.server.live import live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_chat import CHAT, body
from tests.server.upstream.conftest import relay
from tests.waiting import eventually


@pytest.fixture
def far() -> ScriptedEngine:
    """The upstream's engine."""
    return ScriptedEngine()


@pytest.fixture
def client(database: Database, far: ScriptedEngine) -> Iterator[httpx.Client]:
    with live_server([scripted_model(far)]) as upstream:
        models = [scripted_model(ScriptedEngine(), "own"), relay(upstream.url)]
        with live_server(models, database=database, background=run_jobs) as server:
            with httpx.Client(base_url=server.url, timeout=20) as http:
                yield http


def test_lines_are_answered_there(
    client: httpx.Client, database: Database, far: ScriptedEngine
) -> None:
    lines = [*requests(3), {"custom_id": "bad", "body": body(logit_bias={"1": 1})}]
    job = ended(client, create(client, model="far", requests=named(lines))["id"])
    assert (job["succeeded_requests"], job["failed_requests"]) == (3, 1)
    for number in range(3):
        row = ledger.find(database, f"{job['id']}:{number}")
        assert row is not None and (row.upstream, row.is_batch) == ("there", True)
        assert row.price_micros == PRICE.cost_micros(9, 4, 11, is_batch=True)
    assert ledger.total(database, Period()).requests == 3


def test_people_who_wait_for_this_machine_take_no_place_there(
    client: httpx.Client, far: ScriptedEngine
) -> None:
    """What was given up and asked again would be paid for twice."""
    far.script = lambda request: [0.3, "Hello"]
    job = create(client, model="far", requests=named(requests(4)))
    assert eventually(lambda: len(far.requests) == 4)
    assert client.post(CHAT, json=body(model="own")).status_code == 200
    assert ended(client, job["id"])["succeeded_requests"] == 4
    assert len(far.requests) == 4


def test_an_upstream_without_room_is_asked_again(client: httpx.Client, far: ScriptedEngine) -> None:
    full = iter([QueueFullError("full", retry_after_s=2)])  # longer than a client waits
    far.script = lambda request: [next(full, None) or "Hello"]
    job = ended(client, create(client, model="far", requests=named(requests(1)))["id"])
    assert job["succeeded_requests"] == 1 and len(far.requests) == 1


def named(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    """Lines that leave the model to their job."""
    for line in lines:
        fields = line["body"]
        assert isinstance(fields, dict)
        fields["model"] = "far"
    return lines
