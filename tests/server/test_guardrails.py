"""Guardrails of chat requests: what is blocked, what is only told, what cannot be asked."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import pytest

from cierzo.engine.request import GenerationRequest, TokenEvent
from cierzo.server.readings import OWN_WORKSPACE
from tests.server.scripted import Script, ScriptedEngine
from tests.server.test_chat import CHAT, chunks
from tests.server.test_classifiers import V1, V2, text_of, yes


def script(request: GenerationRequest) -> Script:
    return ["Hello there"] if request.readout is None else yes(request)


@pytest.fixture(autouse=True)
def judging(engine: ScriptedEngine) -> ScriptedEngine:
    engine.script = script
    return engine


def body(text: str = "GO AWAY", **fields: Any) -> dict[str, Any]:
    guardrail: dict[str, Any] = {"moderation_llm_v2": {"action": "block", **fields}}
    messages = [{"role": "user", "content": text}]
    return {"model": "tiny", "messages": messages, "guardrails": [guardrail]}


@pytest.mark.parametrize("stream", [False, True])
def test_blocked_input_is_403_as_documented(
    client: httpx.Client, engine: ScriptedEngine, stream: bool
) -> None:
    answer = client.post(CHAT, json={**body(), "stream": stream})
    assert answer.status_code == 403
    assert answer.json()["error"] == {"message": "Content blocked by guardrail", "status": 403}
    (found,) = answer.json()["guardrails"]["results"].values()
    assert (found["model_name"], found["violated"], found["action"]) == (
        "mistral-moderation-2603",
        True,
        "block",
    )
    assert [*found["decisions"]] == V2
    assert found["decisions"]["law"]["violated"] is True
    assert found["decisions"]["law"]["threshold"] == 0.5
    assert all(request.readout is not None for request in engine.requests)


@pytest.mark.parametrize("stream", [False, True])
def test_what_passes_is_answered_and_told(client: httpx.Client, stream: bool) -> None:
    answer = client.post(CHAT, json={**body("A quiet day"), "stream": stream})
    assert answer.status_code == 200
    last = chunks(answer)[-1] if stream else answer.json()
    (guardrail,) = last["guardrails"]
    assert guardrail["results"]["moderation_llm_v2"]["violated"] is False
    assert last["usage"]["completion_tokens"] == 11
    plain = client.post(CHAT, json={"model": "tiny", "messages": body()["messages"]}).json()
    assert "guardrails" not in plain


def test_action_none_only_tells(client: httpx.Client) -> None:
    for action in ("none", None):
        answer = client.post(CHAT, json=body(action=action))
        assert answer.status_code == 200
        (guardrail,) = answer.json()["guardrails"]
        assert guardrail["results"]["moderation_llm_v2"]["violated"] is True


def test_own_thresholds(client: httpx.Client, engine: ScriptedEngine) -> None:
    fields: dict[str, Any] = {"custom_category_thresholds": {"law": 0.01, "health": None}}
    answer = client.post(CHAT, json=body("A quiet day", **fields))
    assert answer.status_code == 403
    decisions = answer.json()["guardrails"]["results"]["moderation_llm_v2"]["decisions"]
    assert [name for name, decision in decisions.items() if decision["violated"]] == ["law"]
    assert decisions["health"]["threshold"] == 0.5
    engine.requests.clear()
    answer = client.post(CHAT, json=body("A quiet day", ignore_other_categories=True, **fields))
    decisions = answer.json()["guardrails"]["results"]["moderation_llm_v2"]["decisions"]
    assert [*decisions] == ["health", "law"]
    assert len([r for r in engine.requests if r.workspace != OWN_WORKSPACE]) == 2


def test_the_older_model_and_own_policies(client: httpx.Client) -> None:
    fields = body()
    fields["guardrails"] = [{"moderation_llm_v1": {"action": "block"}}]
    found = client.post(CHAT, json=fields).json()["guardrails"]["results"]["moderation_llm_v1"]
    assert [*found["decisions"]] == V1
    found = client.post(CHAT, json=body(model_name="shouting")).json()["guardrails"]["results"]
    assert [*found["moderation_llm_v2"]["decisions"]] == ["shouting"]


def test_a_prefix_of_the_answer_is_no_input(client: httpx.Client, engine: ScriptedEngine) -> None:
    fields = body("Quiet", model_name="shouting")
    fields["messages"].append({"role": "assistant", "content": "GO AWAY", "prefix": True})
    assert client.post(CHAT, json=fields).status_code == 200
    texts = [text_of(request) for request in engine.requests if request.readout is not None]
    assert texts[-1].endswith("Text: Quiet")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"custom_category_thresholds": {"loud": 0.5}}, "has no category 'loud'"),
        ({"ignore_other_categories": True}, "leaves nothing to check"),
        ({"model_name": "none"}, "Invalid model: none"),
        ({"model_name": "topic"}, "ask it at /v1/classifications"),
    ],
)
def test_what_makes_no_sense(client: httpx.Client, fields: dict[str, Any], message: str) -> None:
    answer = client.post(CHAT, json=body(**fields))
    assert answer.status_code == 400 and message in answer.json()["message"]


def test_faulty_fields(client: httpx.Client) -> None:
    thresholds = "custom_category_thresholds"
    faults: list[tuple[str, Any]] = [("action", "explode"), (thresholds, {"law": 1.5})]
    for name, bad in [*faults, (thresholds, [])]:
        assert client.post(CHAT, json=body(**{name: bad})).status_code == 422


def test_a_guardrail_that_fails(client: httpx.Client, engine: ScriptedEngine) -> None:
    """It lets pass and says so, unless it is to block then."""

    def failing(request: GenerationRequest) -> Script:
        if request.readout is None or request.workspace == OWN_WORKSPACE:
            return script(request)
        return [TokenEvent(0, None, "error", error="the engine broke")]

    engine.script = failing
    fields = body()
    answer = client.post(CHAT, json=fields)
    assert answer.status_code == 200
    found = answer.json()["guardrails"][0]["results"]["moderation_llm_v2"]
    assert found == {"error": "the engine broke", "action": "none"}
    fields["guardrails"][0]["block_on_error"] = True
    answer = client.post(CHAT, json=fields)
    assert answer.status_code == 403
    found = answer.json()["guardrails"]["results"]["moderation_llm_v2"]
    assert found["error"] == "the engine broke"
