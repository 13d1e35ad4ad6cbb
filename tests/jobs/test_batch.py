"""Batch jobs over a socket, with the real SDK, and a killed process."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from mistralai.client import Mistral

from cierzo.errors import QueueFullError
from cierzo.ids import now_ms
from cierzo.jobs import gate, worker
from cierzo.jobs.worker import run_jobs
from cierzo.store import Database, api_keys, ledger, open_database, pricing, workspaces
from cierzo.store.files import FileStore
from cierzo.store.ledger import Period
from cierzo.store.pricing import Price
from cierzo.store.tables import DEFAULT_ID
from tests.server.conftest import scripted_model
from tests.server.live import LiveServer, live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_auth import bearer
from tests.server.test_chat import CHAT, body
from tests.server.test_classifiers import yes
from tests.server.test_errors import check
from tests.waiting import eventually

JOBS = "/v1/batch/jobs"


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def server(database: Database, engine: ScriptedEngine) -> Iterator[LiveServer]:
    models = [scripted_model(engine)]
    with live_server(models, database=database, background=run_jobs) as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as http:
        yield http


def said(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"number {number}"}]


def requests(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"custom_id": f"c{n}", "body": body(messages=said(n), **fields)} for n in range(count)]


def create(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post(JOBS, json={"endpoint": CHAT, **fields})
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def job_of(client: httpx.Client, job_id: str, **query: Any) -> dict[str, Any]:
    job: dict[str, Any] = client.get(f"{JOBS}/{job_id}", params=query).json()
    return job


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    running = ("QUEUED", "RUNNING", "CANCELLATION_REQUESTED")
    assert eventually(lambda: job_of(client, job_id)["status"] not in running)
    return job_of(client, job_id, inline="true")


def test_mistralai_runs_a_job(server: LiveServer, database: Database) -> None:
    lines = [{"custom_id": str(n), "body": {"messages": body()["messages"]}} for n in range(3)]
    lines.append({"custom_id": "bad", "body": {"messages": [], "temperature": 9}})
    data = "\n".join(json.dumps(line) for line in lines).encode()
    with Mistral(api_key="none", server_url=server.url) as client:
        given = client.files.upload(
            file={"file_name": "in.jsonl", "content": data}, purpose="batch"
        )
        job = client.batch.jobs.create(
            endpoint="/v1/chat/completions",
            input_files=[str(given.id)],
            model="tiny",
            metadata={"team": "a"},
        )
        assert job.status == "QUEUED" and job.total_requests == 0
        assert eventually(lambda: client.batch.jobs.get(job_id=job.id).status == "SUCCESS")
        job = client.batch.jobs.get(job_id=job.id)
        assert (job.total_requests, job.succeeded_requests, job.failed_requests) == (4, 3, 1)
        found = client.batch.jobs.list(metadata={"team": "a"}, status=["SUCCESS"])
        assert found.total == 1 and found.data and found.data[0].id == job.id
        assert client.batch.jobs.list(metadata={"team": "b"}).total == 0
        output = client.files.download(file_id=str(job.output_file)).read().splitlines()
        answers = [json.loads(line) for line in output]
        assert [line["custom_id"] for line in answers] == ["0", "1", "2"]
        for line in answers:
            assert line["error"] is None and line["response"]["status_code"] == 200
            choice = line["response"]["body"]["choices"][0]
            assert choice["message"]["content"] == "Hello there"
        (failed,) = client.files.download(file_id=str(job.error_file)).read().splitlines()
        assert json.loads(failed)["response"]["status_code"] == 422
        assert client.batch.jobs.delete(job_id=job.id).deleted
    total = ledger.total(database, Period(is_batch=True))
    assert total.requests == 3


def test_a_line_costs_half(client: httpx.Client, database: Database) -> None:
    answer = client.post(CHAT, json=body(messages=said(0)))
    job = ended(client, create(client, requests=requests(1))["id"])
    whole = ledger.find(database, answer.headers["x-request-id"])
    half = ledger.find(database, f"{job['id']}:0")
    assert whole is not None and half is not None
    assert half.completion_tokens == whole.completion_tokens
    assert half.price_micros == pytest.approx(whole.price_micros / 2, abs=1)
    usage = job["outputs"][0]["response"]["body"]["usage"]
    assert usage["total_tokens"] == half.prompt_tokens + half.completion_tokens


def test_a_lines_guardrail_is_part_of_the_line(
    client: httpx.Client, server: LiveServer, engine: ScriptedEngine, database: Database
) -> None:
    """At the batch's price, and nobody is taken to wait for it."""
    engine.script = lambda request: ["Hi"] if request.readout is None else yes(request)
    pricing.set_price(database, "mistral-moderation-2603", Price(1_000_000, 0), now_ms())
    guarded = {"guardrails": [{"moderation_llm_v2": {"action": "none"}}]}
    answer = client.post(CHAT, json=body(messages=said(0), **guarded))
    whole = ledger.find(database, answer.headers["x-request-id"] + ":guardrail-1")
    app: Any = server.server.config.app
    traffic = app.state.metering.traffic
    assert eventually(lambda: traffic.num_open == 0)
    ended_s = traffic.last_end_s
    job = ended(client, create(client, requests=requests(3, **guarded))["id"])
    assert job["succeeded_requests"] == 3 and traffic.last_end_s == ended_s
    half = ledger.find(database, f"{job['id']}:0:guardrail-1")
    assert whole is not None and half is not None
    assert half.is_batch and half.prompt_tokens == whole.prompt_tokens
    assert half.price_micros == pytest.approx(whole.price_micros / 2, abs=1)


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/v1/embeddings", {"model": "tiny", "input": ["a", "b"]}),
        ("/v1/fim/completions", {"model": "tiny", "prompt": "def f("}),
        ("/v1/moderations", {"model": "mistral-moderation-2603", "input": "a"}),
    ],
)
def test_every_endpoint(client: httpx.Client, path: str, given: dict[str, Any]) -> None:
    made = client.post(JOBS, json={"endpoint": path, "requests": [{"body": given}]}).json()
    job = ended(client, made["id"])
    assert (job["status"], job["succeeded_requests"], job["input_files"]) == ("SUCCESS", 1, [])
    assert job["outputs"][0]["response"]["body"]["usage"]["prompt_tokens"] > 0


def test_what_cannot_be_a_job(client: httpx.Client) -> None:
    def refused(**fields: Any) -> httpx.Response:
        return client.post(JOBS, json={"endpoint": CHAT, **fields})

    invalid = "invalid_request_error"
    check(refused(), 400, invalid, "one of them")
    check(refused(input_files=["x"], requests=requests(1)), 400, invalid, "one of them")
    check(refused(input_files=["x"]), 404, "not_found", "no file")
    check(refused(requests=requests(1), agent_id="a"), 400, invalid, "agents")
    for wrong in ({"endpoint": "/v1/ocr"}, {"timeout_hours": 169}, {"metadata": {"k" * 33: "v"}}):
        assert refused(requests=requests(1), **wrong).status_code == 422
    assert client.get(f"{JOBS}/nowhere").status_code == 404


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "no requests"),
        (b'{"body": {}}\nnot json', "line 2 of in.jsonl"),
        (b'{"custom_id": "a", "body": {}}\n{"custom_id": "a", "body": {}}', "'a' is there twice"),
        (b'{"body": 7}', "body"),
    ],
)
def test_an_input_that_is_none(client: httpx.Client, data: bytes, fault: str) -> None:
    made = client.post("/v1/files", files={"file": ("in.jsonl", data)}).json()["id"]
    job = ended(client, create(client, input_files=[made], model="tiny")["id"])
    assert job["status"] == "FAILED" and job["total_requests"] == 0
    assert fault in job["errors"][0]["message"]


def test_a_number_of_any_size_is_the_endpoints_to_refuse(client: httpx.Client) -> None:
    odd = {"custom_id": "odd", "body": body(max_tokens=10**30, metadata={"big": 10**30})}
    line = json.dumps(odd).encode()
    file = client.post("/v1/files", files={"file": ("in.jsonl", line)}).json()["id"]
    for given in ({"requests": [odd]}, {"input_files": [file]}):
        job = ended(client, create(client, **given)["id"])
        assert (job["status"], job["failed_requests"]) == ("SUCCESS", 1)
        assert job["outputs"][0]["response"]["status_code"] == 422


def hold(engine: ScriptedEngine, after: int = 50) -> threading.Event:
    """The engine's answers, but for the first, wait for the event."""
    rest = threading.Event()
    engine.script = lambda request: [
        "Hel",
        *([rest] if len(engine.requests) >= after else ()),
        "lo",
    ]
    return rest


def statuses(database: Database, job_id: str) -> Counter[str]:
    """How many lines of a job have a row of which status."""
    found = [ledger.find(database, f"{job_id}:{number}") for number in range(500)]
    assert all(row.price_micros == 0 for row in found if row is not None and row.status != "ok")
    return Counter(row.status for row in found if row is not None)


def test_cancelling_keeps_what_is_answered(
    client: httpx.Client, engine: ScriptedEngine, database: Database
) -> None:
    """And what was cut off has used compute, so it has a row, at no price."""
    hold(engine)
    job = create(client, requests=requests(500))
    assert eventually(lambda: job_of(client, job["id"])["completed_requests"] > 0)
    asked = client.post(f"{JOBS}/{job['id']}/cancel").json()
    assert asked["status"] == "CANCELLATION_REQUESTED"
    over = ended(client, job["id"])
    assert over["status"] == "CANCELLED"
    assert 0 < over["completed_requests"] == len(over["outputs"]) < 500
    assert eventually(lambda: engine.stats().num_running == 0)
    assert eventually(lambda: statuses(database, job["id"])["aborted"] > 0)
    rows = statuses(database, job["id"])
    assert rows["ok"] == over["completed_requests"] and rows["aborted"] <= gate.IDLE_LINES
    charged = ledger.total(database, Period(is_batch=True), charged_only=True)
    assert charged.requests == rows["ok"]
    again = client.post(f"{JOBS}/{job['id']}/cancel").json()
    assert again["status"] == "CANCELLED"


def test_a_job_that_takes_too_long(
    client: httpx.Client, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(engine)
    job = create(client, requests=requests(500), timeout_hours=1)
    assert eventually(lambda: job_of(client, job["id"])["completed_requests"] > 0)
    late_ms = now_ms() + 3_600_001
    monkeypatch.setattr(worker, "now_ms", lambda: late_ms)
    over = ended(client, job["id"])
    assert over["status"] == "TIMEOUT_EXCEEDED" and "1 hours" in over["errors"][0]["message"]
    assert 0 < over["completed_requests"] == len(over["outputs"]) < 500


def test_beside_a_request_that_somebody_waits_for(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    """All lines but one give way at once, and are answered later."""
    rest = hold(engine, after=0)
    job = create(client, requests=requests(200))
    assert eventually(lambda: engine.stats().num_running > 20)
    with client.stream("POST", CHAT, json=body(max_tokens=7, stream=True)) as answer:
        chunks = answer.iter_lines()
        next(chunks)
        assert eventually(lambda: engine.stats().num_running <= 2)
        for _ in range(5):
            assert engine.stats().num_running <= 1 + gate.BUSY_LINES
            time.sleep(0.02)
        rest.set()
    assert ended(client, job["id"])["succeeded_requests"] == 200


def test_a_full_queue_is_waited_for(client: httpx.Client, engine: ScriptedEngine) -> None:
    refusals = iter([QueueFullError("full", retry_after_s=1)] * 3)
    engine.script = lambda request: [next(refusals, "Hi")]
    job = ended(client, create(client, requests=requests(4))["id"])
    assert job["succeeded_requests"] == 4


def test_jobs_are_their_workspaces_alone(engine: ScriptedEngine, database: Database) -> None:
    team = workspaces.create(database, "team").id
    keys = [api_keys.create(database, "key", of) for of in (DEFAULT_ID, team)]
    _, narrow = api_keys.create(database, "narrow", DEFAULT_ID, endpoints=["batch", "fim"])
    models = [scripted_model(engine)]
    with live_server(models, database=database, background=run_jobs) as server:
        one, other, third = (
            httpx.Client(base_url=server.url, headers=bearer(spelling))
            for spelling in (keys[0][1], keys[1][1], narrow)
        )
        with one, other, third:
            refused = third.post(JOBS, json={"endpoint": CHAT, "requests": requests(1)})
            check(refused, 403, "forbidden", "may not use chat")
            hold(engine)
            job = create(one, requests=requests(300))
            assert other.get(JOBS).json()["total"] == 0
            assert other.get(f"{JOBS}/{job['id']}").status_code == 404
            assert other.post(f"{JOBS}/{job['id']}/cancel").status_code == 404
            assert other.delete(f"{JOBS}/{job['id']}").status_code == 404
            file = one.post("/v1/files", files={"file": ("a.jsonl", b"{}")}).json()["id"]
            stolen = other.post(JOBS, json={"endpoint": CHAT, "input_files": [file]})
            check(stolen, 404, "not_found", "no file")
            api_keys.revoke(database, keys[0][0].id)
            again = api_keys.create(database, "again", DEFAULT_ID)[1]
            headers = bearer(again)
            with httpx.Client(base_url=server.url, headers=headers) as later:
                over = ended(later, job["id"])
                assert over["status"] == "FAILED" and "revoked" in over["errors"][0]["message"]


PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from cierzo.jobs import worker
    from cierzo.server.app import build_app
    from cierzo.server.run import Server, bind
    from cierzo.store import open_database
    from cierzo.store.files import FileStore
    from tests.server.conftest import scripted_model
    from tests.server.scripted import ScriptedEngine

    engine = ScriptedEngine(lambda request: ["Hel", 0.01, "lo"])
    with bind("127.0.0.1", 0) as listener:
        database = open_database(Path(sys.argv[1]), None)
        files = FileStore(database, Path(sys.argv[1]))
        app = build_app([scripted_model(engine)], database, files, background=worker.run_jobs)
        Server(app, listener, lambda host, port: print(port, flush=True)).run_bound()
    """
)
NUM_LINES = 400


@contextmanager
def killed(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()


def test_killed_three_times_every_line_is_done_and_charged_once(tmp_path: Path) -> None:
    job_id = ""
    for attempt in range(4):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
            with killed(process), httpx.Client(base_url=url) as client:
                if not attempt:
                    job_id = create(client, requests=requests(NUM_LINES))["id"]
                before = job_of(client, job_id)["completed_requests"]
                target = min(before + 60, NUM_LINES) if attempt < 3 else NUM_LINES
                while job_of(client, job_id)["completed_requests"] < target:
                    time.sleep(0.005)
                if attempt == 3:
                    over = ended(client, job_id)
    assert (over["status"], over["succeeded_requests"]) == ("SUCCESS", NUM_LINES)
    assert [line["custom_id"] for line in over["outputs"]] == [f"c{n}" for n in range(NUM_LINES)]
    database = open_database(tmp_path, None)
    total = ledger.total(database, Period(is_batch=True))
    usages = [line["response"]["body"]["usage"] for line in over["outputs"]]
    assert total.requests == NUM_LINES
    assert total.total_tokens == sum(usage["total_tokens"] for usage in usages)
    files = FileStore(database, tmp_path)
    assert len(list(files.folder.iterdir())) == 1  # the output: inline requests are gone
    database.close()
