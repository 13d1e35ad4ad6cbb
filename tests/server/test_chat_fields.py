"""Every field of a chat request: it works, is a hint, is ignored, or is refused by name.

The table below is complete (a test says so) and docs/api/chat.md says the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx2 as httpx
import pytest

from cierzo.engine.request import GenerationRequest
from cierzo.server.schemas.chat import ChatCompletionRequest
from tests.server.scripted import ScriptedEngine
from tests.server.test_chat import CHAT, body
from tests.server.test_tool_calls import TOOLS

DOCS = Path(__file__).parents[2] / "docs" / "api" / "chat.md"


def param(name: str, value: object) -> Callable[[GenerationRequest], bool]:
    return lambda request: getattr(request.params, name) == value


def unchanged(request: GenerationRequest) -> bool:
    return request.params.seed is None and request.params.stop == ()


@dataclass(frozen=True)
class Field:
    """`verdict` stands in the docs; `value` is accepted (refused fields: answered 400), `check`
    holds of what the engine is then asked, `bad` values are answered 422."""

    verdict: Literal["works", "hint", "ignored", "refused"]
    value: Any
    check: Callable[[GenerationRequest], bool] = unchanged
    bad: tuple[Any, ...] = ()


FIELDS: dict[str, Field] = {
    "model": Field("works", "tiny-latest", bad=(None, 3)),
    "messages": Field("works", [{"role": "user", "content": "x"}], bad=([], None, [{"role": "x"}])),
    "temperature": Field("works", 0.3, param("temperature", 0.3), (-0.1, 1.6, "hot")),
    "top_p": Field("works", 0.5, param("top_p", 0.5), (0, 1.1)),
    "max_tokens": Field("works", 5, param("max_tokens", 5), (-1, 1.5, 2**31)),
    "stream": Field("works", False, bad=("maybe",)),
    "stop": Field("works", ["a", "b"], param("stop", ("a", "b")), ("", [""], ["x"] * 17)),
    "random_seed": Field("works", 7, param("seed", 7), (-1, 2**63)),
    "metadata": Field("ignored", {"a": {"b": 1}}, bad=("text",)),
    "response_format": Field(
        "works", {"type": "text"}, bad=({"type": "xml"}, {"type": "json_schema"})
    ),
    "tools": Field("works", TOOLS, bad=([{"type": "other"}], [{}], TOOLS * 129)),
    "tool_choice": Field("works", "none", bad=("sometimes", {"function": {}})),
    "presence_penalty": Field("works", 1.0, param("presence_penalty", 1.0), (-2.1, 2.1)),
    "frequency_penalty": Field("works", -1.0, param("frequency_penalty", -1.0), (-2.1, 2.1)),
    "n": Field("works", 2, param("n", 2), (0, 65)),
    "prediction": Field("hint", {"type": "content", "content": "Hello"}, bad=({"type": "x"},)),
    "parallel_tool_calls": Field("works", False, bad=("some",)),
    "prompt_mode": Field("works", None, bad=("thinking",)),
    "reasoning_effort": Field("works", None, bad=("extreme",)),
    "guardrails": Field("works", [{"block_on_error": True}], bad=("all",)),
    "prompt_cache_key": Field("hint", "mine", bad=(3,)),
    "service_tier": Field("hint", "auto", bad=("gold",)),
    "safe_prompt": Field("works", False, bad=("very",)),
    "min_tokens": Field("works", 2, param("min_tokens", 2), (-1,)),
    "repetition_penalty": Field("works", 1.2, param("repetition_penalty", 1.2), (0, 11)),
    "top_k": Field("works", 40, param("top_k", 40), (-1, 2**31)),
    "logprobs": Field("works", True, param("logprobs", 0), ("x",)),
    "top_logprobs": Field("works", 0, param("logprobs", None), (-1, 21, 2)),
    "prompt_logprobs": Field("works", True, param("prompt_logprobs", 0), ("x",)),
    "top_prompt_logprobs": Field("works", 0, param("prompt_logprobs", None), (-1, 21, 2)),
    "seed": Field("works", -7, param("seed", -7), (2**63, 10**4000)),
    "max_completion_tokens": Field("works", 5, param("max_tokens", 5), (-1,)),
    "stream_options": Field("ignored", {"include_usage": True}),
    "user": Field("ignored", "someone"),
    "store": Field("ignored", False),
    "logit_bias": Field("refused", {"50": -100.0}),
}


def test_the_table_is_complete() -> None:
    assert set(FIELDS) == set(ChatCompletionRequest.model_fields)


@pytest.mark.parametrize("name", FIELDS)
def test_accepted_or_refused(client: httpx.Client, engine: ScriptedEngine, name: str) -> None:
    field = FIELDS[name]
    answer = client.post(CHAT, json=body(**{name: field.value}))
    if field.verdict == "refused":
        assert answer.status_code == 400
        assert answer.json()["param"] == name
        assert name in answer.json()["message"]
        assert engine.requests == []
        return
    assert answer.status_code == 200
    assert field.check(engine.requests[0])


@pytest.mark.parametrize("name", FIELDS)
def test_null_is_absent(client: httpx.Client, engine: ScriptedEngine, name: str) -> None:
    expected = 422 if name in ("model", "messages") else 200
    assert client.post(CHAT, json=body(**{name: None})).status_code == expected


@pytest.mark.parametrize(
    ("name", "bad"), [(name, bad) for name, field in FIELDS.items() for bad in field.bad]
)
def test_out_of_bounds(client: httpx.Client, engine: ScriptedEngine, name: str, bad: Any) -> None:
    answer = client.post(CHAT, json=body(**{name: bad}))
    assert answer.status_code == 422
    assert engine.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"prediction": {"content": "x"}, "n": 2},
        {"max_tokens": 1, "max_completion_tokens": 2},
        {"seed": 1, "random_seed": 2},
        {"top_logprobs": 1},
        {"top_prompt_logprobs": 1, "logprobs": True},
    ],
)
def test_fields_that_disagree(
    client: httpx.Client, engine: ScriptedEngine, fields: dict[str, Any]
) -> None:
    assert client.post(CHAT, json=body(**fields)).status_code == 422


def test_min_tokens_over_max_tokens(client: httpx.Client, engine: ScriptedEngine) -> None:
    answer = client.post(CHAT, json=body(min_tokens=3, max_tokens=2))
    assert answer.status_code == 400
    assert answer.json()["param"] == "min_tokens"


def test_temperature_defaults_to_the_models(client: httpx.Client, engine: ScriptedEngine) -> None:
    client.post(CHAT, json=body())
    card = client.get("/v1/models").json()["data"][0]
    assert engine.requests[0].params.temperature == card["default_model_temperature"]


@pytest.mark.parametrize(
    "kind", ["image_url", "document_url", "file", "input_audio", "reference", "resource"]
)
def test_chunks_that_no_model_reads(
    client: httpx.Client, engine: ScriptedEngine, kind: str
) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "See"}, {"type": kind}]}
    answer = client.post(CHAT, json=body(messages=[message]))
    assert answer.status_code == 400
    assert f'messages[0]: a content chunk of type "{kind}"' in answer.json()["message"]


def test_unknown_chunk(client: httpx.Client, engine: ScriptedEngine) -> None:
    message = {"role": "user", "content": [{"type": "smell", "smell": "rain"}]}
    assert client.post(CHAT, json=body(messages=[message])).status_code == 422


def test_docs_say_the_same() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", DOCS.read_text(), re.MULTILINE)
    assert dict(rows) == {name: field.verdict for name, field in FIELDS.items()}
