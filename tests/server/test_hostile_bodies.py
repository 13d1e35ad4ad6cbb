"""Whatever the body, the answer is an answer or a typed refusal: never a 500, never a hang."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cierzo.errors import CierzoError
from cierzo.server.chat_request import prepare_chat
from cierzo.server.chat_text import ChatText
from cierzo.server.schemas.chat import ChatCompletionRequest
from cierzo.server.token_model import TokenModel
from cierzo.tokenizer.chat_prompt import ChatPrompt
from tests.server.conftest import scripted_model
from tests.server.scripted import ScriptedEngine
from tests.server.test_chat import CHAT, body
from tests.server.test_tool_calls import TOOLS
from tests.server.tiny_server import tekken

NAMES = st.sampled_from(
    [*ChatCompletionRequest.model_fields, "role", "content", "type", "text", "name", "x"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["user", "system", "assistant", "tool", "text", "function", "json_schema"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
RICH = body(
    messages=[
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "t"}]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "a" * 9, "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "a" * 9, "content": "windy"},
    ],
    tools=TOOLS,
    tool_choice={"type": "function", "function": {"name": "weather"}},
    response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
)


@st.composite
def damaged_bodies(draw: st.DrawFn) -> dict[str, Any]:
    """The rich body with one to three of its parts replaced, at any depth."""
    damaged: dict[str, Any] = json.loads(json.dumps(RICH))
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = damaged
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(holder[key], dict | list) and draw(st.booleans()):
                holder = holder[key]
                continue
            holder[key] = draw(VALUES)
            break
    return damaged


def check(answer: httpx.Response) -> None:
    assert answer.status_code in (200, 400, 422), answer.text
    assert answer.status_code == 200 or answer.json()["object"] == "error"


# The server's state is not the client's: nothing is left over between examples.
relaxed = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@relaxed
@given(damaged=damaged_bodies())
def test_damaged_bodies(
    client: httpx.Client, engine: ScriptedEngine, damaged: dict[str, Any]
) -> None:
    damaged["stream"] = False
    check(client.post(CHAT, content=json.dumps(damaged).encode()))


@relaxed
@given(fields=st.dictionaries(NAMES, VALUES, max_size=6))
def test_made_up_bodies(
    client: httpx.Client, engine: ScriptedEngine, fields: dict[str, Any]
) -> None:
    check(client.post(CHAT, content=json.dumps({**body(), **fields, "stream": False}).encode()))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TokenModel:
    tokenizer = tekken(tmp_path_factory.mktemp("tekken"), "v13")
    text = ChatText(tokenizer, ChatPrompt(tokenizer), tokenizer.vocab_size)
    return replace(scripted_model(ScriptedEngine()), text=text)


@relaxed
@given(damaged=damaged_bodies())
def test_damaged_bodies_meet_real_prompts_and_grammars(
    model: TokenModel, damaged: dict[str, Any]
) -> None:
    """What the schema lets through is prepared, or refused by a typed error."""
    with suppress(ValidationError, CierzoError):
        prepare_chat(ChatCompletionRequest.model_validate(damaged), model, "id", "team")


@relaxed
@given(content=st.binary(max_size=60))
def test_made_up_bytes(client: httpx.Client, engine: ScriptedEngine, content: bytes) -> None:
    check(client.post(CHAT, content=content))
