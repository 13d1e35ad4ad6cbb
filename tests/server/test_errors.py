"""Every kind of failure has its status and the one error shape."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from pydantic import ValidationError

from cierzo import errors
from cierzo.engine.request import TokenEvent
from cierzo.server.config import ServerConfig
from cierzo.server.error_responses import ERRORS, MAX_FAULTS, FieldErrors
from cierzo.server.request_body import OFF_LOOP_BYTES
from cierzo.server.schemas.chat import ChatCompletionRequest
from tests.server.conftest import CONTEXT, scripted_model
from tests.server.live import LiveServer, live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_chat import CHAT, body, chunks

KEYS = {"object", "message", "type", "param", "code", "raw_status_code"}


def check(answer: httpx.Response, status: int, type_name: str, message: str) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    data: dict[str, Any] = answer.json()
    assert set(data) - {"detail"} == KEYS
    assert data["object"] == "error"
    assert data["type"] == type_name
    assert data["raw_status_code"] == status
    assert message in (data["message"] if status != 422 else json.dumps(data["message"]))
    assert answer.headers["x-request-id"] == answer.headers["mistral-correlation-id"]
    return data


def test_unknown_model(client: httpx.Client, engine: ScriptedEngine) -> None:
    data = check(client.post(CHAT, json=body(model="tinny")), 400, "invalid_model", "Invalid model")
    assert data["code"] == "1500"
    assert "did you mean tiny?" in data["message"]
    long = check(client.post(CHAT, json=body(model="x" * 100_000)), 400, "invalid_model", "xx…")
    assert len(long["message"]) < 200


def test_unknown_route(client: httpx.Client) -> None:
    check(client.get("/v1/nope"), 404, "not_found", "no route GET /v1/nope")


def test_method_not_allowed(client: httpx.Client) -> None:
    answer = client.get(CHAT)
    check(answer, 405, "method_not_allowed", "takes POST")
    assert answer.headers["allow"] == "POST"


def test_options_and_head(client: httpx.Client) -> None:
    assert client.request("OPTIONS", CHAT).status_code == 204
    assert client.request("OPTIONS", CHAT).headers["allow"] == "POST"
    head = client.head("/v1/models")
    assert (head.status_code, head.content) == (200, b"")


def test_no_redirect_of_a_trailing_slash(client: httpx.Client) -> None:
    assert client.post(CHAT + "/", json=body()).status_code == 404


@pytest.mark.parametrize("content", [b"", b"{", b"nonsense", b'{"model": "tiny", ', b"\xff\xfe{}"])
def test_not_json(client: httpx.Client, content: bytes) -> None:
    data = check(client.post(CHAT, content=content), 422, "invalid_request_error", "Invalid JSON")
    assert data["detail"][0]["type"] == "json_invalid"
    assert data["detail"][0]["input"] == content.decode(errors="replace")


@pytest.mark.parametrize("content", [b"[]", b"null", b'"text"', b"3"])
def test_json_but_no_object(client: httpx.Client, content: bytes) -> None:
    check(client.post(CHAT, content=content), 422, "invalid_request_error", "object")


def test_deeply_nested_json(client: httpx.Client) -> None:
    deep = b'{"model": "tiny", "metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert client.post(CHAT, content=deep).status_code == 422


def test_schema_fault_names_the_field_twice(client: httpx.Client) -> None:
    """The live service nests the list under `message`, the SDKs read a top-level `detail`."""
    answer = client.post(CHAT, json=body(temperature=9))
    data = check(answer, 422, "invalid_request_error", "less than or equal to 1.5")
    assert data["message"]["detail"] == data["detail"]
    assert data["detail"][0]["loc"] == ["body", "temperature"]
    assert data["detail"][0]["input"] == 9


def test_body_over_the_limit(client: httpx.Client, engine: ScriptedEngine) -> None:
    config = ServerConfig(max_body_bytes=1000)
    with live_server([scripted_model(ScriptedEngine())], config) as server:
        large = json.dumps(body(metadata={"x": "y" * 2000})).encode()
        answer = httpx.post(server.url + CHAT, content=large)
        check(answer, 413, "request_too_large", "over the limit of 1000 bytes")
        pieces = (large[i : i + 500] for i in range(0, len(large), 500))
        answer = httpx.post(server.url + CHAT, content=pieces)
        assert answer.status_code == 413
        assert httpx.post(server.url + CHAT, json=body()).status_code == 200


def test_strict_mode_refuses_extra_fields() -> None:
    config = ServerConfig(strict_fields=True)
    with live_server([scripted_model(ScriptedEngine())], config) as server:
        fields = body(seed=1, nonsense=2)
        fields["messages"][0]["name"] = "Ana"
        answer = httpx.post(server.url + CHAT, json=fields)
        data = check(answer, 422, "invalid_request_error", "Extra inputs are not permitted")
        locations = [item["loc"][1:] for item in data["detail"]]
        assert sorted(locations, key=str) == [["messages", 0, "name"], ["nonsense"], ["seed"]]
        assert {item["type"] for item in data["detail"]} == {"extra_forbidden"}
        image = {"type": "image_url", "image_url": "https://example.org/a.png"}
        fields = body(messages=[{"role": "user", "content": [image]}])
        answer = httpx.post(server.url + CHAT, json=fields)
        check(answer, 400, "invalid_request_error", 'a content chunk of type "image_url"')


def test_ignored_names_make_a_header_whatever_they_are(client: httpx.Client) -> None:
    """As long as the header takes, it may be cut at a space; and a name may be nothing else."""
    for names in ((" ",), ("x" * 1022, "y"), ("é\r\nSet-Cookie: a=b",)):
        answer = client.post(CHAT, json=body(**dict.fromkeys(names, 1)))
        assert answer.status_code == 200 and "set-cookie" not in answer.headers


def test_lenient_mode_names_what_it_ignores(client: httpx.Client, engine: ScriptedEngine) -> None:
    fields = body(nonsense=2)
    fields["messages"][0]["name"] = "Ana"
    answer = client.post(CHAT, json=fields)
    assert answer.status_code == 200
    assert answer.headers["x-cierzo-ignored-fields"] == "nonsense, messages.0.name"
    assert "x-cierzo-ignored-fields" not in client.post(CHAT, json=body()).headers


def test_queue_full(client: httpx.Client, engine: ScriptedEngine) -> None:
    error = errors.QueueFullError("512 requests are waiting", retry_after_s=7)
    engine.script = lambda request: [error]
    for stream in (False, True):
        answer = client.post(CHAT, json=body(stream=stream))
        assert check(answer, 429, "rate_limited", "are waiting")["code"] == "1300"
        assert answer.headers["retry-after"] == "7"


@pytest.mark.parametrize(("kind", "status", "type_name", "code"), ERRORS)
def test_the_table(
    client: httpx.Client,
    engine: ScriptedEngine,
    kind: type[Exception],
    status: int,
    type_name: str,
    code: str | None,
) -> None:
    if issubclass(kind, errors.QueueFullError | errors.RateLimitError | errors.UpstreamAwayError):
        error: Exception = kind("why", retry_after_s=1)
    else:
        error = kind("why")
    engine.script = lambda request: [error]
    data = check(client.post(CHAT, json=body()), status, type_name, "why")
    assert data["code"] == code


def test_unexpected_failure_is_a_500_without_its_text(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.script = lambda request: [ValueError("secret path")]
    for stream in (False, True):
        answer = client.post(CHAT, json=body(stream=stream))
        data = check(answer, 500, "internal_error", "x-request-id")
        assert "secret" not in data["message"]


def test_engine_error_before_the_first_token_is_an_http_error(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.script = lambda request: [TokenEvent(0, None, "error", error="the step failed")]
    for stream in (False, True):
        answer = client.post(CHAT, json=body(stream=stream))
        check(answer, 500, "internal_error", "the step failed")


def test_engine_error_later(client: httpx.Client, engine: ScriptedEngine) -> None:
    """A stream ends with finish_reason error; a whole answer is an HTTP error."""
    engine.script = lambda request: ["Hel", TokenEvent(0, None, "error", error="the step failed")]
    received = chunks(client.post(CHAT, json=body(stream=True)))
    assert received[-1]["choices"][0]["finish_reason"] == "error"
    check(client.post(CHAT, json=body()), 500, "internal_error", "the step failed")


def test_foreign_web_pages_are_refused(client: httpx.Client, engine: ScriptedEngine) -> None:
    for origin in ("https://example.org", "null", "http://localhost.example.org"):
        answer = client.post(CHAT, json=body(), headers={"origin": origin})
        check(answer, 403, "origin_not_allowed", origin)
    assert engine.requests == []


def test_local_web_pages_are_welcome(client: httpx.Client, engine: ScriptedEngine) -> None:
    origin = {"origin": "http://localhost:3000"}
    preflight = {"access-control-request-method": "POST"}
    allowed = client.request("OPTIONS", CHAT, headers={**origin, **preflight})
    assert allowed.headers["access-control-allow-origin"] == origin["origin"]
    answer = client.post(CHAT, json=body(), headers=origin)
    assert answer.headers["access-control-allow-origin"] == origin["origin"]


def test_names_of_ignored_fields_cannot_break_the_header(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    answer = client.post(CHAT, json=body(**{"x\r\nset-cookie: a": 1, "ñ": 2, "y" * 3000: 3}))
    assert answer.status_code == 200
    assert answer.headers["x-cierzo-ignored-fields"].startswith(r"x\r\nset-cookie: a, \xf1, yyy")
    assert "set-cookie" not in answer.headers


def test_text_that_is_no_unicode(client: httpx.Client, engine: ScriptedEngine) -> None:
    lone_surrogate = json.dumps(body()).replace('"Hi"', r'"\ud800"').encode()
    check(client.post(CHAT, content=lone_surrogate), 422, "invalid_request_error", "Invalid JSON")


def test_text_far_over_the_context_is_not_even_tokenized(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    long = [{"role": "user", "content": "x" * 1_000_000}]
    check(client.post(CHAT, json=body(messages=long)), 400, "invalid_request_prompt", "1000000")


def test_more_messages_than_the_context_has_tokens(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    many = [{"role": "user", "content": ""}] * (CONTEXT + 1)
    check(
        client.post(CHAT, json=body(messages=many)), 400, "invalid_request_prompt", "513 messages"
    )
    assert client.post(CHAT, json=body(messages=many[1:])).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense " * 100_000,
        json.dumps({"model": "tiny", "messages": [{"role": "x"}] * 20_000}).encode(),
        json.dumps(body(n="y" * 1_000_000)).encode(),
        json.dumps(body(seed=10**4000)).encode(),
    ],
)
def test_much_nonsense_has_a_short_answer(client: httpx.Client, content: bytes) -> None:
    answer = client.post(CHAT, content=content)
    assert answer.status_code == 422
    assert len(answer.content) < 100_000
    assert len(answer.json()["detail"]) <= 100


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "x"}] * 1000},
        {"messages": [{"role": "user", "content": [{"type": "x"}] * 1000}]},
        {"messages": [{"role": "assistant", "tool_calls": [{}] * 1000}]},
        {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": [1] * 1000}]}]},
        {"guardrails": [1] * 1000},
        {"tools": [{"function": 1}] * 1000},
        {"stop": [1] * 1000},
        {"logit_bias": {str(i): [] for i in range(1000)}},
    ],
)
def test_faults_are_not_counted_without_end(fields: dict[str, Any]) -> None:
    """Even those that no answer would list hold the interpreter while they are built."""
    try:
        ChatCompletionRequest.model_validate_json(json.dumps(body(**fields)))
    except ValidationError as error:
        assert error.error_count() <= MAX_FAULTS


def test_long_bodies_are_read_off_the_event_loop(
    shared_server: LiveServer,
    client: httpx.Client,
    engine: ScriptedEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []
    shown, built = ChatCompletionRequest.extra_fields, FieldErrors.from_pydantic

    def extra_fields(body: ChatCompletionRequest, *, strict: bool) -> Iterator[Any]:
        threads.append(threading.current_thread())
        return shown(body, strict=strict)

    def from_pydantic(error: ValidationError) -> FieldErrors:
        threads.append(threading.current_thread())
        return built(error)

    monkeypatch.setattr(ChatCompletionRequest, "extra_fields", extra_fields)
    monkeypatch.setattr(FieldErrors, "from_pydantic", from_pydantic)
    long = {"x": "y" * 2 * OFF_LOOP_BYTES}
    assert client.post(CHAT, json=body(metadata=long)).status_code == 200
    assert client.post(CHAT, json=body(metadata=long, n="x")).status_code == 422
    assert len(threads) == 2 and shared_server.thread not in threads
