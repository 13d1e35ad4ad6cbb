"""The default model over the socket says what it says through the library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest

from cierzo import LLM, SamplingParams
from cierzo.server.chat_text import ChatText
from cierzo.server.token_model import TokenModel
from tests.sdk.scenario import TOOL
from tests.server.live import live_server
from tests.server.test_chat import CHAT, chunks, text_of

QUESTION = [{"role": "user", "content": "How many days are there in a week?"}]


@pytest.fixture(scope="module")
def llm(default_model_path: Path) -> Iterator[LLM]:
    with LLM(default_model_path, max_model_len=512) as llm:
        yield llm


@pytest.fixture(scope="module")
def client(llm: LLM) -> Iterator[httpx.Client]:
    model = TokenModel(
        id="default",
        engine=llm.engine,
        text=ChatText(llm.tokenizer, llm.chat_prompt, llm.config.vocab_size),
        created=1_700_000_000,
        max_context_length=llm.max_model_len,
        embedding_dim=llm.config.dim,
    )
    with live_server([model]) as server, httpx.Client(base_url=server.url) as http:
        yield http


def test_same_text_as_the_library(llm: LLM, client: httpx.Client) -> None:
    expected = llm.chat(QUESTION, SamplingParams(temperature=0.0, max_tokens=12)).text
    fields = {"model": "default", "messages": QUESTION, "temperature": 0, "max_tokens": 12}
    whole = client.post(CHAT, json=fields).json()
    assert whole["choices"][0]["message"]["content"] == expected
    assert whole["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert text_of(chunks(client.post(CHAT, json={**fields, "stream": True}))) == expected


def test_same_vectors_as_the_library(llm: LLM, client: httpx.Client) -> None:
    texts = ["The wind blows from the north.", "Shares fell."]
    answer = client.post("/v1/embeddings", json={"model": "default", "input": texts}).json()
    found = np.array([item["embedding"] for item in answer["data"]], np.float32)
    np.testing.assert_array_equal(found, llm.embed(texts))


def test_moderation_of_two_texts(client: httpx.Client) -> None:
    body = {"model": "mistral-moderation-2603", "input": ["A quiet day.", "I will hit you."]}
    calm, loud = client.post("/v1/moderations", json=body).json()["results"]
    for result in (calm, loud):
        assert len(result["category_scores"]) == 11
        assert all(0 < score < 1 for score in result["category_scores"].values())
    alone = client.post("/v1/moderations", json={**body, "input": "I will hit you."}).json()
    assert alone["results"] == [loud]


def test_held_to_a_tool_and_to_a_schema(client: httpx.Client) -> None:
    fields = {"model": "default", "messages": QUESTION, "temperature": 0, "max_tokens": 100}
    forced = {"tools": [TOOL], "tool_choice": "any", "parallel_tool_calls": False}
    choice = client.post(CHAT, json=fields | forced).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    arguments = json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
    assert arguments["city"] in ("Huesca", "Jaca")
    schema = {
        "type": "object",
        "properties": {"days": {"type": "integer", "maximum": 31}},
        "required": ["days"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "days", "schema": schema}}
    choice = client.post(CHAT, json=fields | {"response_format": wanted}).json()["choices"][0]
    assert json.loads(choice["message"]["content"])["days"] <= 31
