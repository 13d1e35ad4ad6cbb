"""Embeddings over a socket: batches, normalisation, formats, refusals."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from cierzo.engine import Engine
from cierzo.engine.readout import Readout
from cierzo.engine.request import GenerationRequest, TokenEvent
from cierzo.errors import QueueFullError
from cierzo.server.readings import MAX_IN_FLIGHT
from cierzo.server.schemas.embeddings import EmbeddingResponse
from tests.server.live import LiveServer
from tests.server.scripted import BOS, DIM, Script, ScriptedEngine, reading_of
from tests.server.test_disconnect import ask_and_leave
from tests.server.tiny_server import num_submitted, tekken, tiny_server
from tests.waiting import eventually

EMBEDDINGS = "/v1/embeddings"


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "input": ["north wind", "south wind"], **fields}


def vectors(answer: httpx.Response) -> NDArray[np.float64]:
    assert answer.status_code == 200, answer.text
    EmbeddingResponse.model_validate(answer.json(), strict=True)
    data = answer.json()["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return np.array([item["embedding"] for item in data])


def test_one_vector_of_length_1_per_text(client: httpx.Client, engine: ScriptedEngine) -> None:
    answer = client.post(EMBEDDINGS, json=body())
    found = vectors(answer)
    assert found.shape == (2, DIM)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    assert answer.json()["usage"] == {
        "prompt_tokens": 22,
        "completion_tokens": 0,
        "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    for request, text in zip(engine.requests, (b"north wind", b"south wind"), strict=True):
        assert request.prompt_token_ids == (BOS, *text)
        assert request.readout == Readout("last")
        assert request.params.max_tokens == 0
    assert (vectors(client.post(EMBEDDINGS, json=body(input="south wind"))) == found[1]).all()


def test_shorter_vectors_are_the_beginning_at_length_1(client: httpx.Client) -> None:
    whole = vectors(client.post(EMBEDDINGS, json=body()))
    for name in ("output_dimension", "dimensions"):
        short = vectors(client.post(EMBEDDINGS, json=body(**{name: 8})))
        expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
        np.testing.assert_allclose(short, expected, rtol=1e-5)


def test_dtypes(client: httpx.Client) -> None:
    whole = vectors(client.post(EMBEDDINGS, json=body()))
    int8 = vectors(client.post(EMBEDDINGS, json=body(output_dtype="int8")))
    uint8 = vectors(client.post(EMBEDDINGS, json=body(output_dtype="uint8")))
    assert (np.abs(int8).max(axis=1) == 127).all() and (uint8 == int8 + 128).all()
    cosine = (int8 * whole).sum(axis=1) / np.linalg.norm(int8, axis=1)
    assert (cosine > 0.999).all()
    ubinary = vectors(client.post(EMBEDDINGS, json=body(output_dtype="ubinary")))
    binary = vectors(client.post(EMBEDDINGS, json=body(output_dtype="binary")))
    assert (ubinary == np.packbits(whole > 0, axis=1)).all()
    assert (binary == ubinary - 128).all()


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"), [("float", "<f4"), ("int8", "i1"), ("ubinary", "u1")]
)
def test_base64(client: httpx.Client, dtype: str, numpy_dtype: str) -> None:
    fields = body(output_dtype=dtype)
    plain = vectors(client.post(EMBEDDINGS, json=fields))
    answer = client.post(EMBEDDINGS, json={**fields, "encoding_format": "base64"})
    for item, expected in zip(answer.json()["data"], plain, strict=True):
        found = np.frombuffer(base64.b64decode(item["embedding"]), numpy_dtype)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_token_ids(client: httpx.Client, engine: ScriptedEngine) -> None:
    assert len(vectors(client.post(EMBEDDINGS, json=body(input=[5, 6, 7])))) == 1
    assert len(vectors(client.post(EMBEDDINGS, json=body(input=[[5], [6, 7]])))) == 2
    assert [r.prompt_token_ids for r in engine.requests] == [(5, 6, 7), (5,), (6, 7)]


def test_many_texts_stay_in_order(client: httpx.Client, engine: ScriptedEngine) -> None:
    texts = [f"text {i}" for i in range(3 * MAX_IN_FLIGHT)]
    found = vectors(client.post(EMBEDDINGS, json=body(input=texts)))
    for text, vector in zip(texts, found, strict=True):
        request = next(r for r in engine.requests if r.prompt_token_ids[1:] == (*text.encode(),))
        hidden = reading_of(request).hidden
        assert hidden is not None
        np.testing.assert_allclose(vector, hidden / np.linalg.norm(hidden), rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"input": ""}, 400, "input 0 is empty"),
        ({"input": ["a", ""]}, 400, "input 1 is empty"),
        ({"input": ["a", "b" * 512]}, 400, "input 1 has 513 tokens, over the 511"),
        ({"input": "b" * 200_000}, 400, "too many for a context of 512 tokens"),
        ({"output_dimension": 17}, 400, "vectors of 16 numbers"),
        ({"output_dtype": "binary", "output_dimension": 12}, 400, "12 is no multiple of 8"),
        ({"model": "none"}, 400, "Invalid model: none"),
    ],
)
def test_refusals(client: httpx.Client, fields: dict[str, Any], status: int, message: str) -> None:
    answer = client.post(EMBEDDINGS, json=body(**fields))
    assert answer.status_code == status
    assert message in answer.json()["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"input": []},
        {"input": [[]]},
        {"input": ["a", 1]},
        {"input": None},
        {"output_dimension": 0},
        {"output_dtype": "float16"},
        {"encoding_format": "hex"},
    ],
)
def test_faulty_fields(client: httpx.Client, fields: dict[str, Any]) -> None:
    assert client.post(EMBEDDINGS, json=body(**fields)).status_code == 422


def test_a_text_that_fails_is_the_requests_error(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    def script(request: GenerationRequest) -> Script:
        if b"south" in bytes(request.prompt_token_ids[1:]):
            return [TokenEvent(0, None, "error", error="the engine broke")]
        return [10.0]

    engine.script = script
    answer = client.post(EMBEDDINGS, json=body())
    assert answer.status_code == 500 and answer.json()["message"] == "the engine broke"
    assert all(stream.is_closed for stream in engine.streams)


def test_a_full_queue_refuses_only_who_has_not_begun(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    num_refused = 0

    def script(request: GenerationRequest) -> Script:
        nonlocal num_refused
        if engine.requests and num_refused < 3:
            num_refused += 1
            return [QueueFullError("full", retry_after_s=3)]
        return ["then"]

    engine.script = script
    assert len(vectors(client.post(EMBEDDINGS, json=body()))) == 2
    assert num_refused == 3
    engine.script = lambda request: [QueueFullError("full", retry_after_s=3)]
    answer = client.post(EMBEDDINGS, json=body())
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")


def test_a_client_that_leaves_stops_the_work(
    shared_server: LiveServer, engine: ScriptedEngine
) -> None:
    engine.script = lambda request: [30.0]
    ask_and_leave(shared_server.url + EMBEDDINGS, body(), lambda: bool(engine.streams))
    assert eventually(lambda: all(stream.is_closed for stream in engine.streams))


def test_metrics(client: httpx.Client, engine: ScriptedEngine) -> None:
    def total() -> float:
        lines = client.get("/metrics").text.splitlines()
        name = 'cierzo_prompt_tokens_total{model="tiny"}'
        return sum(float(line.split()[1]) for line in lines if line.startswith(name))

    before = total()
    client.post(EMBEDDINGS, json=body())
    assert total() == before + 22


@pytest.fixture(scope="module")
def gate() -> Event:
    """While it is not set, the model computes nothing."""
    gate = Event()
    gate.set()
    return gate


@pytest.fixture(scope="module")
def real(
    tmp_path_factory: pytest.TempPathFactory, gate: Event
) -> Iterator[tuple[httpx.Client, Engine]]:
    tokenizer = tekken(tmp_path_factory.mktemp("tekken"), "v3")
    with (
        tiny_server(tokenizer, gate=gate) as (server, engine),
        httpx.Client(base_url=server.url) as http,
    ):
        yield http, engine


def test_real_engine_in_few_steps(real: tuple[httpx.Client, Engine], gate: Event) -> None:
    client, engine = real
    texts = [f"wind number {i}" for i in range(40)]
    steps, submitted = engine.stats().num_steps, num_submitted(engine)
    with ThreadPoolExecutor() as threads:
        gate.clear()
        answer = threads.submit(client.post, EMBEDDINGS, json=body(input=texts))
        all_are_in = eventually(lambda: num_submitted(engine) == submitted + len(texts))
        gate.set()
    assert all_are_in
    found = vectors(answer.result())
    assert engine.stats().num_steps - steps < 20
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    alone = vectors(client.post(EMBEDDINGS, json=body(input=texts[17])))
    assert (alone[0] == found[17]).all()
