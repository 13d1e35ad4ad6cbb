"""The real clients over a socket: `mistralai` runs its scenario, `openai` its own."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel

from tests.sdk import scenario
from tests.server.answers import answer
from tests.server.live import LiveServer
from tests.server.scripted import ScriptedEngine

HELLO: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "Say hello.", "name": "Ana"},
]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


def test_mistralai(shared_server: LiveServer, engine: ScriptedEngine) -> None:
    engine.script = answer
    scenario.main(shared_server.url, "tiny")


@pytest.fixture
def client(shared_server: LiveServer, engine: ScriptedEngine) -> Iterator[openai.OpenAI]:
    engine.script = answer
    url = shared_server.url + "/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_openai_models(client: openai.OpenAI) -> None:
    assert next(iter(client.models.list())).id == "tiny"
    assert client.models.retrieve("tiny-latest").id == "tiny"


def test_openai_chat(client: openai.OpenAI, engine: ScriptedEngine) -> None:
    """OpenAI's names for fields work; what means nothing here is ignored."""
    answer = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        seed=3,
        max_completion_tokens=5,
        user="someone",
        store=False,
        temperature=0,
    )
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4
    params = engine.requests[0].params
    assert (params.seed, params.max_tokens, params.temperature) == (3, 5, 0.0)


def test_openai_stream(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello there"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 11


def test_openai_tools(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "The weather?"}],
        tools=[WEATHER],
        tool_choice="required",
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls and calls[0].type == "function" and calls[0].function.name == "weather"


class Person(BaseModel):
    is_friend: bool
    count: int


def test_openai_parse(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="tiny",
        messages=[{"role": "user", "content": "A person as JSON"}],
        response_format=Person,
    )
    assert answer.choices[0].message.parsed == Person(is_friend=True, count=3)


def test_openai_embeddings(client: openai.OpenAI) -> None:
    """It asks for base64 by itself, and decodes it."""
    whole = client.embeddings.create(model="tiny", input=["north wind", "south wind"])
    assert [len(item.embedding) for item in whole.data] == [16, 16]
    plain = client.embeddings.create(
        model="tiny", input="south wind", encoding_format="float", user="someone"
    )
    assert plain.data[0].embedding == pytest.approx(whole.data[1].embedding)
    short = client.embeddings.create(model="tiny", input=[[1, 2], [3]], dimensions=8)
    assert [len(item.embedding) for item in short.data] == [8, 8]


def test_openai_moderations(client: openai.OpenAI) -> None:
    """It names no model unless told to."""
    answer = client.moderations.create(input=["A quiet day.", "Another."])
    assert answer.model == "mistral-moderation-2603"
    assert [result.flagged for result in answer.results] == [False, False]
    assert 0 < answer.results[0].model_dump()["category_scores"]["financial"] < 0.5


def test_openai_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Invalid model: none"):
        client.chat.completions.create(model="none", messages=HELLO)
    with pytest.raises(openai.UnprocessableEntityError) as invalid:
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=1.9)
    assert invalid.value.request_id is not None
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("none/at all")
    with pytest.raises(openai.BadRequestError, match="logit_bias"):
        client.chat.completions.create(model="tiny", messages=HELLO, logit_bias={"1": 1})
