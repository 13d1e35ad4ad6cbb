"""Fill-in-the-middle over a socket: the prompt's order, chat's shapes, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from cierzo.server.schemas.chat import ChatCompletionChunk, ChatCompletionResponse
from cierzo.tokenizer.loading import load_tokenizer
from tests.server.scripted import BOS, EOS, PREFIX, SUFFIX, ScriptedEngine
from tests.server.test_chat import chunks, text_of
from tests.server.tiny_server import tekken, tiny_server
from tests.tokenizer.vocabularies import smollm2_fields, write_gguf_vocab

FIM = "/v1/fim/completions"


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": "def f(", "suffix": "return 1", **fields}


def test_whole_answer(client: httpx.Client, engine: ScriptedEngine) -> None:
    engine.script = lambda request: [" x):\n    "]
    answer = client.post(
        FIM, json=body(max_tokens=30, random_seed=7, temperature=0.5, min_tokens=2)
    )
    ChatCompletionResponse.model_validate(answer.json(), strict=True)
    assert answer.json()["choices"][0]["message"]["content"] == " x):\n    "
    request = engine.requests[0]
    assert request.prompt_token_ids == (BOS, SUFFIX, *b"return 1", PREFIX, *b"def f(")
    assert request.stop_token_ids == {EOS}
    params = request.params
    assert (params.max_tokens, params.seed, params.temperature) == (30, 7, 0.5)
    assert params.min_tokens == 2


def test_stream_is_whole(client: httpx.Client, engine: ScriptedEngine) -> None:
    received = chunks(client.post(FIM, json=body(stream=True, stop=["er"])))
    for chunk in received:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    assert text_of(received) == "Hello th"
    assert received[-1]["choices"][0]["finish_reason"] == "stop"
    assert received[-1]["usage"]["prompt_tokens"] == 17


def test_no_suffix_is_an_empty_one(client: httpx.Client, engine: ScriptedEngine) -> None:
    for fields in ({"suffix": None}, {"suffix": ""}):
        assert client.post(FIM, json=body(**fields)).status_code == 200
    for request in engine.requests:
        assert request.prompt_token_ids == (BOS, SUFFIX, PREFIX, *b"def f(")


def test_refusals(client: httpx.Client, engine: ScriptedEngine) -> None:
    answer = client.post(FIM, json=body(prompt="x" * 200_000))
    assert (answer.status_code, answer.json()["code"]) == (400, "3051")
    assert answer.json()["param"] == "prompt"
    assert client.post(FIM, json=body(model="none")).json()["code"] == "1500"
    for fields in ({"prompt": None}, {"top_p": 0}, {"max_tokens": -1}, {"stop": [""]}):
        assert client.post(FIM, json=body(**fields)).status_code == 422
    ignored = client.post(FIM, json=body(echo=True))
    assert ignored.headers["x-cierzo-ignored-fields"] == "echo"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        tiny_server(tekken(tmp_path_factory.mktemp("tekken"), "v3")) as (server, _),
        httpx.Client(base_url=server.url) as http,
    ):
        yield http


def test_real_engine(real: httpx.Client) -> None:
    fields = body(max_tokens=20, min_tokens=4, random_seed=3)
    whole = real.post(FIM, json=fields).json()
    assert 4 <= whole["usage"]["completion_tokens"] <= 20
    streamed = text_of(chunks(real.post(FIM, json={**fields, "stream": True})))
    assert streamed == whole["choices"][0]["message"]["content"]


def test_a_model_without_the_tokens_says_so(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_gguf_vocab(tmp_path, smollm2_fields()))
    with tiny_server(tokenizer) as (server, _):
        answer = httpx.post(server.url + FIM, json=body())
    assert answer.status_code == 400
    assert "not made to fill in the middle" in answer.json()["message"]
