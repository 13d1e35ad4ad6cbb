"""Moderations and classifications over a socket: one batch, shared questions, scores, refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest

from cierzo.classifiers.definition import Classifier, ClassifierFolder
from cierzo.classifiers.moderation import MODERATION_MODELS
from cierzo.classifiers.question import policy_question, topic_question
from cierzo.classifiers.scoring import Head
from cierzo.cli import run
from cierzo.engine import Engine
from cierzo.engine.readout import Reading
from cierzo.engine.request import GenerationRequest
from cierzo.ids import now_ms
from cierzo.server.readings import OWN_WORKSPACE
from cierzo.server.schemas.classifiers import ClassificationResponse, ModerationResponse
from cierzo.store import api_keys, ledger, pricing, workspaces
from cierzo.store.pricing import Price
from tests.server.conftest import scripted_classifiers, scripted_model
from tests.server.live import LiveServer, live_server
from tests.server.scripted import DIM, Script, ScriptedEngine
from tests.server.test_auth import bearer
from tests.server.tiny_server import tekken, tiny_server
from tests.store.temporary import temporary_database

V2, V1 = ([*model.questions] for model in MODERATION_MODELS)
TEXTS = ["A quiet day.", "GO AWAY NOW"]


def text_of(request: GenerationRequest) -> str:
    return bytes(token for token in request.prompt_token_ids if token < 256).decode()


def asked(engine: ScriptedEngine) -> list[GenerationRequest]:
    """The clients' questions, without those about texts without content."""
    return [request for request in engine.requests if request.workspace != OWN_WORKSPACE]


def yes(request: GenerationRequest) -> Script:
    """Sure of yes for texts that shout; as for a text without content otherwise."""
    assert request.readout is not None
    logits = np.zeros(len(request.readout.token_ids), np.float32)
    if "AWAY" in text_of(request):
        logits[[i for i, token in enumerate(request.readout.token_ids) if token in b"yY"]] = 20
    return [Reading(None, logits)]


@pytest.fixture(params=["/v1/moderations", "/v1/chat/moderations"])
def moderations(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A path, and TEXTS as it takes them."""
    path: str = request.param
    return path, (
        TEXTS if "chat" not in path else [[{"role": "user", "content": text}] for text in TEXTS]
    )


@pytest.mark.parametrize(
    ("model", "categories"),
    [
        ("mistral-moderation-2603", V2),
        ("mistral-moderation-latest", V2),
        ("mistral-moderation-2411", V1),
        ("shouting", ["shouting"]),
    ],
)
def test_moderation(
    client: httpx.Client,
    engine: ScriptedEngine,
    moderations: tuple[str, Any],
    model: str,
    categories: list[str],
) -> None:
    engine.script = yes
    path, given = moderations
    answer = client.post(path, json={"model": model, "input": given}).json()
    ModerationResponse.model_validate(answer, strict=True)
    assert answer["model"] == model
    calm, loud = answer["results"]
    assert [*calm["categories"]] == [*calm["category_scores"]] == categories
    assert not any(calm["categories"].values()) and all(loud["categories"].values())
    assert list(calm["category_scores"].values()) == pytest.approx([0.05] * len(categories))
    assert min(loud["category_scores"].values()) > 0.99
    requests = asked(engine)
    assert len(requests) == 2 * len(categories)
    assert answer["usage"]["prompt_tokens"] == sum(len(r.prompt_token_ids) for r in requests)
    assert answer["usage"]["completion_tokens"] == 0


def test_the_questions_stand_in_front_and_are_asked_one_after_the_other(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    client.post("/v1/moderations", json={"model": "mistral-moderation-2603", "input": TEXTS})
    prompts = [text_of(request) for request in asked(engine)]
    for calm, loud in zip(prompts[::2], prompts[1::2], strict=True):
        question, _, text = calm.rpartition("Text:")
        assert loud.startswith(question) and text == " " + TEXTS[0]
        assert loud.endswith("Text: " + TEXTS[1])


def test_a_question_is_calibrated_once(client: httpx.Client, engine: ScriptedEngine) -> None:
    for _ in range(2):
        client.post("/v1/classifications", json={"model": "topic", "input": TEXTS})
    own = [request for request in engine.requests if request.workspace == OWN_WORKSPACE]
    assert len(own) in (0, 3)  # another test may have asked before
    assert len(asked(engine)) == 4


@pytest.mark.parametrize("path", ["/v1/classifications", "/v1/chat/classifications"])
@pytest.mark.parametrize("alone", [False, True])
def test_classification(
    client: httpx.Client, engine: ScriptedEngine, path: str, alone: bool
) -> None:
    def script(request: GenerationRequest) -> Script:
        is_sport = "the match" in text_of(request)
        odds = [9.0 if (token in b"sS") == is_sport else 1.0 for token in readout(request)]
        is_own = request.workspace == OWN_WORKSPACE
        return [Reading(None, np.log(np.array([1.0] * 4 if is_own else odds, np.float32)))]

    engine.script = script
    texts = ["They won the match."] if alone else ["They won the match.", "Shares fell."]
    given: Any = texts
    if "chat" in path:
        given = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    body = {"model": "topic", "input": given[0] if alone else given}
    answer = client.post(path, json=body).json()
    ClassificationResponse.model_validate(answer, strict=True)
    scores = [result["topic"]["scores"] for result in answer["results"]]
    assert len(scores) == len(texts)
    for of_text in scores:
        assert list(of_text) == ["business", "sport"]
        assert sum(of_text.values()) == pytest.approx(1)


def readout(request: GenerationRequest) -> tuple[int, ...]:
    assert request.readout is not None
    return request.readout.token_ids


def test_a_policy_classifies_too(client: httpx.Client, engine: ScriptedEngine) -> None:
    engine.script = yes
    body = {"model": "shouting", "input": "GO AWAY"}
    (result,) = client.post("/v1/classifications", json=body).json()["results"]
    assert result["shouting"]["scores"]["yes"] > 0.99


def test_the_last_message_is_judged_after_what_led_to_it(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": [{"type": "text", "text": "GO AWAY"}]},
    ]
    client.post("/v1/chat/moderations", json={"model": "shouting", "input": messages})
    (request,) = asked(engine)
    assert text_of(request).endswith(
        " user: Hello\nassistant: Hi!\n\nJudge only the message that follows.\nuser: GO AWAY"
    )
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": "data:"}]}]
    answer = client.post("/v1/chat/moderations", json={"model": "shouting", "input": image})
    assert answer.status_code == 400 and "image_url" in answer.json()["message"]


@pytest.mark.parametrize(
    ("path", "model", "message"),
    [
        ("/v1/moderations", "topic", "ask it at /v1/classifications"),
        ("/v1/classifications", "mistral-moderation-2603", "ask it at /v1/moderations"),
        ("/v1/classifications", "tiny", "cierzo classifier create"),
        ("/v1/moderations", "tiny", "cierzo classifier create"),
        ("/v1/moderations", "none", "Invalid model: none"),
        ("/v1/classifications", "foreign", "made for absent, which is not served"),
        ("/v1/classifications", "../topic", "Invalid model"),
    ],
)
def test_refused_models(client: httpx.Client, path: str, model: str, message: str) -> None:
    answer = client.post(path, json={"model": model, "input": "x"})
    assert answer.status_code == 400 and message in answer.json()["message"]


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/v1/moderations", []),
        ("/v1/moderations", [1]),
        ("/v1/moderations", None),
        ("/v1/chat/moderations", "text"),
        ("/v1/chat/moderations", [[]]),
        ("/v1/chat/moderations", [{"role": "nobody", "content": "x"}]),
        ("/v1/classifications", {"messages": []}),
        ("/v1/chat/classifications", [{"role": "user", "content": "x"}]),
        ("/v1/chat/classifications", {"messages": []}),
    ],
)
def test_faulty_inputs(client: httpx.Client, path: str, given: Any) -> None:
    assert client.post(path, json={"model": "shouting", "input": given}).status_code == 422


def test_a_text_over_the_context_is_named(client: httpx.Client) -> None:
    body = {"model": "shouting", "input": ["a", "b" * 500]}
    answer = client.post("/v1/moderations", json=body)
    assert answer.status_code == 400 and answer.json()["code"] == "3051"
    assert "input 1 makes a prompt of" in answer.json()["message"]


def test_a_head_answers_and_one_for_another_model_says_so(tmp_path: Path) -> None:
    folder = ClassifierFolder(tmp_path)
    question = topic_question(["business", "sport"])
    for name, dim in (("fits", DIM), ("too-wide", DIM + 1)):
        head = Head(np.zeros((2, dim), np.float32), np.log(np.array([1, 3], np.float32)))
        folder.save(Classifier(name, "tiny", question, head))
    with live_server([scripted_model(ScriptedEngine())], classifiers=folder) as server:
        url = server.url + "/v1/classifications"
        answer = httpx.post(url, json={"model": "fits", "input": "x"}).json()
        scores = answer["results"][0]["fits"]["scores"]
        assert scores == pytest.approx({"business": 0.25, "sport": 0.75})
        answer = httpx.post(url, json={"model": "too-wide", "input": "x"})
        assert answer.status_code == 400 and "the model changed" in answer.json()["message"]
        folder.remove("fits")
        assert httpx.post(url, json={"model": "fits", "input": "x"}).status_code == 400


def test_a_restored_classifier_answers(tmp_path: Path) -> None:
    """Its head too: a backup has the folder's files."""
    labels = topic_question(["business", "sport"])
    head = Head(np.zeros((2, DIM), np.float32), np.log(np.array([1, 3], np.float32)))
    ClassifierFolder(tmp_path / "old").save(Classifier("fits", "tiny", labels, head))
    for command, data in (("backup", "old"), ("restore", "new")):
        assert run([command, str(tmp_path / "file"), "--data", str(tmp_path / data)]) == 0
    restored = ClassifierFolder(tmp_path / "new")
    with live_server([scripted_model(ScriptedEngine())], classifiers=restored) as server:
        body = {"model": "fits", "input": "x"}
        answer = httpx.post(server.url + "/v1/classifications", json=body).json()
    scores = answer["results"][0]["fits"]["scores"]
    assert scores == pytest.approx({"business": 0.25, "sport": 0.75})


def test_a_workspaces_own_are_nobody_elses(tmp_path: Path) -> None:
    """They are not listed, not found and not told apart from nothing; what is shared is."""
    folder = scripted_classifiers(tmp_path)
    with temporary_database() as database:
        ids = [workspaces.create(database, name).id for name in ("one", "other")]
        keys = [bearer(api_keys.create(database, "ci", of)[1]) for of in ids]
        folder.save(Classifier("secret", "tiny", policy_question("It is secret.")), ids[0])
        folder.save(Classifier("topic", "tiny", topic_question(["own", "labels"])), ids[0])
        models = [scripted_model(ScriptedEngine(script=yes))]
        with live_server(models, database=database, classifiers=folder) as server:

            def names(headers: dict[str, str]) -> set[str]:
                cards = httpx.get(server.url + "/v1/models", headers=headers).json()["data"]
                return {card["id"] for card in cards}

            assert names(keys[0]) - names(keys[1]) == {"secret"}
            assert "shouting" in names(keys[1])

            def ask(headers: dict[str, str], path: str, model: str) -> httpx.Response:
                body = {"model": model, "input": "a"}
                return httpx.post(f"{server.url}/v1/{path}", json=body, headers=headers)

            for path in ("moderations", "classifications"):
                assert ask(keys[0], path, "secret").status_code == 200
                foreign, absent = (ask(keys[1], path, name) for name in ("secret", "secreu"))
                assert foreign.status_code == absent.status_code == 400
                assert (
                    foreign.json()["message"].replace("secret", "secreu")
                    == (absent.json()["message"])
                )
            card = httpx.get(server.url + "/v1/models/secret", headers=keys[1])
            assert card.status_code == 404
            for headers, labels in ((keys[0], {"own", "labels"}), (keys[1], {"business", "sport"})):
                found = ask(headers, "classifications", "topic").json()["results"][0]["topic"]
                assert set(found["scores"]) == labels
            guardrail = {"block_on_error": True, "moderation_llm_v2": {"model_name": "secret"}}
            chat = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
            refused = httpx.post(
                server.url + "/v1/chat/completions",
                json={**chat, "guardrails": [guardrail]},
                headers=keys[1],
            )
            assert refused.status_code == 400 and "Invalid model" in refused.json()["message"]


def test_rows_stand_under_the_classifiers_name_at_its_price_or_its_models(
    tmp_path: Path,
) -> None:
    folder = scripted_classifiers(tmp_path)
    with temporary_database() as database:
        price = Price(1_000_000, 0)
        pricing.set_price(database, "tiny", price, now_ms())
        pricing.set_price(database, "topic", Price(0, 0), now_ms())
        models = [scripted_model(ScriptedEngine(script=yes))]
        with live_server(models, database=database, classifiers=folder) as server:
            for path, model, name in (
                ("/v1/moderations", "mistral-moderation-latest", "mistral-moderation-2603"),
                ("/v1/classifications", "topic", "topic"),
            ):
                answer = httpx.post(server.url + path, json={"model": model, "input": TEXTS})
                assert answer.json()["model"] == model
                row = ledger.find(database, answer.headers["x-request-id"])
                assert row is not None
                usage = answer.json()["usage"]
                cached = usage["prompt_tokens_details"]["cached_tokens"]
                assert (row.model, row.endpoint, row.status) == (name, path, "ok")
                assert (row.prompt_tokens, row.cached_tokens) == (usage["prompt_tokens"], cached)
                expected = price.cost_micros(usage["prompt_tokens"], cached, 0, is_batch=False)
                assert row.price_micros == (0 if name == "topic" else expected)
            guardrail = {"moderation_llm_v2": {"model_name": "shouting"}}
            body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
            engine: Any = models[0].engine
            engine.script = lambda request: ["Yes"] if request.readout is None else yes(request)
            chat = httpx.post(
                server.url + "/v1/chat/completions", json={**body, "guardrails": [guardrail]}
            )
            row = ledger.find(database, chat.headers["x-request-id"] + ":guardrail-1")
            assert row is not None and (row.model, row.status) == ("shouting", "ok")
            assert ledger.find(database, chat.headers["x-request-id"]) is not None


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, Engine]]:
    tokenizer = tekken(tmp_path_factory.mktemp("tekken"), "v7")
    with tiny_server(tokenizer, max_model_len=512, num_blocks=1024) as server:
        yield server


def test_real_engine_computes_each_question_once(real: tuple[LiveServer, Engine]) -> None:
    server, engine = real
    body = {"model": "mistral-moderation-2603", "input": [f"text {i}" for i in range(10)]}
    url = server.url + "/v1/moderations"
    first = httpx.post(url, json=body).json()
    before = engine.stats().num_computed_tokens
    second = httpx.post(url, json=body).json()
    assert second["results"] == first["results"]
    usage = second["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0.5 * usage["prompt_tokens"]
    computed = engine.stats().num_computed_tokens - before
    assert computed == usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    alone = httpx.post(url, json={**body, "input": "text 7"}).json()
    assert alone["results"][0] == first["results"][7]
    assert json.dumps(alone)
