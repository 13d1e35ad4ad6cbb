"""`/health` asks the engine itself; `/metrics` counts what was served."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx2 as httpx
import pytest

from cierzo.server import health_probe
from tests.server.conftest import scripted_model
from tests.server.live import live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_chat import CHAT, body
from tests.waiting import eventually

BOARD = Path(__file__).parents[2] / "examples" / "grafana.json"
DOCS = Path(__file__).parents[2] / "docs" / "api" / "models.md"


def test_healthy(client: httpx.Client, engine: ScriptedEngine) -> None:
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "models": {"tiny": "ok"}}


def test_a_dead_engine_is_unhealthy(client: httpx.Client, engine: ScriptedEngine) -> None:
    engine.healthy = False
    answer = client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["models"] == {"tiny": "stuck"}


def test_an_engine_that_takes_no_step_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda request: ["Hel", 60.0, "lo"])
    with live_server([scripted_model(engine)]) as server:
        with httpx.stream("POST", server.url + CHAT, json=body(stream=True)) as answer:
            pieces = answer.iter_text()
            next(pieces)
            assert httpx.get(server.url + "/health").status_code == 200, "a step may be long"
            monkeypatch.setattr(health_probe, "STUCK_S", 0.0)
            assert httpx.get(server.url + "/health").json()["models"] == {"tiny": "stuck"}
        monkeypatch.undo()
        assert eventually(lambda: httpx.get(server.url + "/health").status_code == 200)


def test_metrics(client: httpx.Client, engine: ScriptedEngine) -> None:
    def value(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))

    names = {
        "cierzo_prompt_tokens_total": 3.0,
        "cierzo_cached_prompt_tokens_total": 4.0,
        "cierzo_generation_tokens_total": 11.0,
        "cierzo_request_finished_total": 1.0,
        "cierzo_time_to_first_token_seconds_count": 1.0,
        "cierzo_time_per_output_token_seconds_count": 1.0,
        "cierzo_e2e_request_latency_seconds_count": 1.0,
    }
    before = {name: value(name) for name in names}
    client.post(CHAT, json=body())
    assert {name: value(name) - before[name] for name in names} == names
    text = client.get("/metrics").text
    assert 'cierzo_num_requests_running{model="tiny"} 0.0' in text
    assert 'cierzo_num_preemptions_total{model="tiny"} 3.0' in text
    assert 'cierzo_expert_tokens_total{expert="1",layer="0",model="tiny"} 1.0' in text
    assert 'route="/v1/chat/completions",status="200"' in text
    client.get("/v1/secret-path")
    assert "secret-path" not in client.get("/metrics").text


def test_request_ids_differ_and_sort_by_time(client: httpx.Client) -> None:
    ids = [client.get("/health").headers["x-request-id"] for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(request_id[14] == "7" for request_id in ids)
    assert [request_id[:8] for request_id in ids] == sorted(request_id[:8] for request_id in ids)


def test_the_example_board_asks_for_metrics_that_exist(client: httpx.Client) -> None:
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", client.get("/metrics").text, re.MULTILINE))
    board = json.loads(BOARD.read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked += [variable["query"] for variable in board["templating"]["list"]]
    names = set(re.findall(r"cierzo_\w+", " ".join(asked)))
    assert len(names) > 10
    for name in names:
        assert name in types or types[name.removesuffix("_bucket")] == "histogram"
    for panel in board["panels"]:
        for target in panel["targets"]:
            assert target["expr"].count("(") == target["expr"].count(")")


def test_docs_name_every_metric(client: httpx.Client) -> None:
    rows = re.findall(r"^\| `(cierzo_\w+)` \|", DOCS.read_text(), re.MULTILINE)
    families = re.findall(r"^# TYPE (\w+) (\w+)$", client.get("/metrics").text, re.MULTILINE)
    assert sorted(rows) == sorted(name for name, _ in families if not name.endswith("_created"))
