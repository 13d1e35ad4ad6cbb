"""The log as JSON lines: one for every request, under the id that its answer carries, and neither
prompts nor keys in any."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from cierzo.cli.logs import JsonFormatter
from cierzo.engine.request import GenerationRequest
from cierzo.store import Database, api_keys
from cierzo.store.tables import DEFAULT_ID
from tests.server.conftest import scripted_model
from tests.server.live import live_server
from tests.server.scripted import Script, ScriptedEngine
from tests.server.test_auth import bearer
from tests.server.test_chat import CHAT, body
from tests.store.temporary import temporary_database
from tests.waiting import eventually

SECRET = "the launch is on Tuesday"
REQUESTS = logging.getLogger("cierzo.server.request_log")


class Log:
    """What was logged: `text` as it went out, `lines` read back."""

    def __init__(self) -> None:
        self._out = io.StringIO()
        self.handler = logging.StreamHandler(self._out)
        self.handler.setFormatter(JsonFormatter())

    @property
    def text(self) -> str:
        return self._out.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def of(self, answer: httpx.Response) -> dict[str, Any]:
        """The request's own line."""
        request_id = answer.headers["x-request-id"]

        def found() -> list[dict[str, Any]]:
            ids = [line for line in self.lines if line.get("request_id") == request_id]
            return [line for line in ids if line["message"] == "request"]

        assert eventually(lambda: len(found()) == 1)
        return found()[0]


@pytest.fixture
def log() -> Iterator[Log]:
    log, root = Log(), logging.getLogger()
    root.addHandler(log.handler)
    REQUESTS.setLevel(logging.INFO)
    yield log
    REQUESTS.setLevel(logging.NOTSET)
    root.removeHandler(log.handler)


@pytest.fixture
def database() -> Iterator[Database]:
    with temporary_database() as database:
        yield database


def script(request: GenerationRequest) -> Script:
    text = bytes(token for token in request.prompt_token_ids if token < 256).decode()
    return ["Hi ", ValueError(f"cannot say {text}")] if "fail" in text else ["Hello"]


def test_every_request_has_its_line_and_none_tells_what_was_said(
    log: Log, database: Database
) -> None:
    _, spelling = api_keys.create(database, "laptop", DEFAULT_ID)
    secret = [{"role": "user", "content": SECRET}]
    fatal = [{"role": "user", "content": f"{SECRET}, fail"}]
    engine = ScriptedEngine(script)
    with live_server([scripted_model(engine)], database=database) as server:
        with httpx.Client(base_url=server.url, headers=bearer(spelling), timeout=20) as client:
            good = client.post(CHAT, json=body(messages=secret, stream=True))
            failed = client.post(CHAT, json=body(messages=fatal))
            faulty = client.post(CHAT, json=body(messages=SECRET))
            client.get("/health")
            other = bearer(spelling[:-4] + "0000")
            stranger = client.post(CHAT, json=body(messages=secret), headers=other)
        assert [a.status_code for a in (good, failed, faulty, stranger)] == [200, 500, 422, 401]

        line = log.of(good)
        assert line.pop("duration_ms") >= line.pop("ttft_ms") >= 0
        assert line.pop("time").endswith("+00:00")
        assert line == {
            "level": "info",
            "logger": "cierzo.server.request_log",
            "message": "request",
            "request_id": good.headers["x-request-id"],
            "method": "POST",
            "route": CHAT,
            "status": 200,
            "workspace": DEFAULT_ID,
            "key": "laptop",
            "model": "tiny",
            "outcome": "ok",
            "prompt_tokens": len(SECRET) + 1,
            "cached_tokens": 4,
            "completion_tokens": 5,
        }
        assert log.of(failed)["outcome"] == "failed"
        assert (log.of(faulty)["status"], log.of(faulty)["key"]) == (422, "laptop")
        assert (log.of(stranger)["status"], log.of(stranger)["key"]) == (401, None)
    (error,) = [line for line in log.lines if "error" in line]
    assert error["request_id"] == failed.headers["x-request-id"]
    assert error["error"] == "ValueError" and any("scripted.py" in call for call in error["stack"])
    assert "/health" not in log.text
    assert SECRET not in log.text and spelling[-12:] not in log.text and "0000" not in log.text


def test_text_logs_tell_of_no_request(log: Log, client: httpx.Client) -> None:
    REQUESTS.setLevel(logging.NOTSET)
    assert client.get("/v1/models").status_code == 200
    assert log.text == ""
