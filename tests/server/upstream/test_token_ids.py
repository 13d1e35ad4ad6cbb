"""A vLLM server as engine: our token ids go out, its token ids come back and are read here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from cierzo.classifiers.definition import Classifier, ClassifierFolder
from cierzo.classifiers.question import topic_question
from cierzo.server.upstream.offer import with_tokenizer
from cierzo.store import Database, ledger
from cierzo.tokenizer.fim_prompt import encode_fim
from cierzo.tokenizer.tokenizer import Tokenizer
from tests.server.live import live_server
from tests.server.test_chat import CHAT, chunks, text_of
from tests.server.test_errors import check
from tests.server.tiny_server import tekken
from tests.server.upstream.conftest import relay
from tests.server.upstream.hostile import (
    DONE,
    Answer,
    Hostile,
    Step,
    event,
    head,
    hostile_server,
    refusal,
)
from tests.server.upstream.test_second_cierzo import body, content_of, row_of
from tests.store.temporary import temporary_database
from tests.waiting import eventually

LENGTH = 400


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with temporary_database() as database:
        yield database


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tekken(tmp_path_factory.mktemp("tekken"), "v3")


def tokens(
    ids: Sequence[int], finish_reason: str | None = None, index: int = 0, **more: Any
) -> bytes:
    """A chunk as vLLM streams it with `return_token_ids`."""
    choice = {"index": index, "text": "ignored", "token_ids": ids, "finish_reason": finish_reason}
    return event({"object": "text_completion", "choices": [choice | more]})


def counts(cached: int) -> bytes:
    details = {"cached_tokens": cached}
    usage = {"prompt_tokens": 1, "completion_tokens": 99, "prompt_tokens_details": details}
    return event({"choices": [], "usage": usage})


@contextmanager
def gateway(
    database: Database,
    tokenizer: Tokenizer,
    *answers: Answer,
    classifiers: ClassifierFolder | None = None,
) -> Iterator[tuple[httpx.Client, Hostile]]:
    with hostile_server(*answers) as host:
        model = replace(relay(host.url, kind="vllm"), max_context_length=LENGTH)
        models = [with_tokenizer(model, tokenizer)]
        with live_server(models, database=database, classifiers=classifiers) as server:
            with httpx.Client(base_url=server.url, timeout=20) as client:
                yield client, host


def test_chat(database: Database, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Hello there, friend")
    (eos,) = tokenizer.eos_ids
    steps: list[Step] = [head(), tokens(ids[:2]), tokens([*ids[2:], eos], "stop"), counts(1), DONE]
    with gateway(database, tokenizer, steps) as (client, host):
        whole = client.post(CHAT, json=body(temperature=0.5, top_k=7, random_seed=3, max_tokens=50))
        assert content_of(whole) == "Hello there, friend"
        assert whole.json()["choices"][0]["finish_reason"] == "stop"
        sent = host.bodies[0]
        assert sent["prompt"][0] == tokenizer.bos_id
        assert "Hi" in tokenizer.decode(sent["prompt"])
        expected = {"temperature": 0.5, "top_k": 7, "seed": 3, "max_tokens": 50, "n": 1}
        assert {name: sent[name] for name in expected} == expected
        assert sent["stop_token_ids"] == [eos] and sent["return_token_ids"] is True
        streamed = chunks(client.post(CHAT, json=body(stream=True)))
        assert text_of(streamed) == "Hello there, friend"
        assert host.bodies[1]["max_tokens"] == LENGTH - len(sent["prompt"])
        assert len(host.bodies[0]["cache_salt"]) == 64
        usage = whole.json()["usage"]
        assert usage["prompt_tokens"] == len(sent["prompt"])
        assert usage["completion_tokens"] == len(ids), (
            "counted here, as for a model of this machine"
        )
        assert usage["prompt_tokens_details"]["cached_tokens"] == 1, "told after the end"
    row = row_of(database, whole)
    assert row is not None and (row.upstream, row.usage_known) == ("there", True)
    assert row.completion_tokens == len(ids)


def test_answers_between_failures_are_noticed(database: Database, tokenizer: Tokenizer) -> None:
    """Five failures in a row are wanted for a rest, not five ever."""
    (eos,) = tokenizer.eos_ids
    good: list[Step] = [head(), tokens([eos], "stop"), counts(0), DONE]
    answers = [*[refusal(500)] * 3, good] * 6  # three attempts each time
    with gateway(database, tokenizer, *answers) as (client, _):
        for _ in range(6):
            assert client.post(CHAT, json=body()).status_code == 502
            assert client.post(CHAT, json=body()).status_code == 200


def test_fill_in_the_middle_sends_the_exact_tokens(
    database: Database, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode("    return 1\n")
    steps: list[Step] = [head(), tokens(ids, "length"), DONE]
    fields = {"model": "far", "prompt": "def f():\n", "suffix": "\n\nprint( f() )", "max_tokens": 9}
    with gateway(database, tokenizer, steps) as (client, host):
        answer = client.post("/v1/fim/completions", json=fields)
        assert content_of(answer) == "    return 1\n"
        assert answer.json()["choices"][0]["finish_reason"] == "length"
        assert host.bodies[0]["prompt"] == encode_fim(
            tokenizer, str(fields["prompt"]), str(fields["suffix"])
        )


def test_tools_and_grammars_are_those_of_here(database: Database, tokenizer: Tokenizer) -> None:
    calls = tokenizer.control_tokens["[TOOL_CALLS]"]
    ids = [calls, *tokenizer.encode('[{"name": "a", "arguments": {"x": 1}}]')]
    (eos,) = tokenizer.eos_ids
    steps: list[Step] = [head(), tokens([*ids, eos], "stop"), DONE]
    tools = [{"function": {"name": "a", "parameters": {"type": "object"}}}]
    with gateway(database, tokenizer, steps) as (client, host):
        answer = client.post(CHAT, json=body(tools=tools, tool_choice="any"))
        (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
        assert call["function"] == {"name": "a", "arguments": '{"x": 1}'}
        assert f"<[{calls}]>" in host.bodies[0]["structured_outputs"]["grammar"]
        client.post(CHAT, json=body(response_format={"type": "json_object"}))
        grammar = host.bodies[1]["structured_outputs"]["grammar"]
        assert "%json" in grammar and '"whitespace_flexible": false' in grammar
        assert "whitespace_pattern" not in grammar, "which its llguidance may not know"
        begun = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "{", "prefix": True},
        ]
        fields = body(messages=begun, response_format={"type": "json_object"})
        check(client.post(CHAT, json=fields), 400, "invalid_request_error", "prefix")
        assert len(host.requests) == 2


def test_logprobs_and_several_answers(database: Database, tokenizer: Tokenizer) -> None:
    first, second = tokenizer.encode("a")[0], tokenizer.encode("b")[0]
    top = {f"token_id:{second}": -2.0, f"token_id:{first}": -0.5}
    logprobs = {"tokens": [f"token_id:{first}"], "token_logprobs": [-0.5], "top_logprobs": [top]}
    steps: list[Step] = [
        head(),
        tokens([first], "length", logprobs=logprobs),
        tokens([second], "length", index=1, logprobs=logprobs),
        DONE,
    ]
    with gateway(database, tokenizer, steps) as (client, host):
        fields = body(n=2, logprobs=True, top_logprobs=1, max_tokens=1)
        choices = client.post(CHAT, json=fields).json()["choices"]
        assert [choice["message"]["content"] for choice in choices] == ["a", "b"]
        (entry,) = choices[0]["logprobs"]["content"]
        assert (entry["token"], entry["logprob"], entry["token_id"]) == ("a", -0.5, first)
        assert [one["token_id"] for one in entry["top_logprobs"]] == [first]
        assert (host.bodies[0]["n"], host.bodies[0]["logprobs"]) == (2, 1)
        refused = client.post(CHAT, json=body(prompt_logprobs=True))
        check(refused, 400, "invalid_request_error", "no logprobs of the prompt")


@pytest.fixture
def topics(tmp_path: Path) -> ClassifierFolder:
    folder = ClassifierFolder(tmp_path)
    folder.save(Classifier("topic", "far", topic_question(["business", "sport"])))
    return folder


def label_logprobs(tokenizer: Tokenizer, sent: dict[str, Any]) -> list[Step]:
    """The second label is made the likelier one behind a text with a goal in it."""
    labels = sent["logprob_token_ids"]
    is_asked = "goal" in tokenizer.decode(sent["prompt"])
    top = {f"token_id:{label}": -1.0 - 3 * is_asked for label in labels[:-1]}
    top[f"token_id:{labels[-1]}"] = -1.0
    read = {"token_logprobs": [-1.0], "top_logprobs": [top]}
    return [head(), tokens([labels[0]], "length", logprobs=read), DONE]


def test_classifiers_read_logprobs(
    database: Database, tokenizer: Tokenizer, topics: ClassifierFolder
) -> None:
    """Of the answers' tokens alone."""
    steps = partial(label_logprobs, tokenizer)
    with gateway(database, tokenizer, steps, classifiers=topics) as (client, host):
        answer = client.post("/v1/classifications", json={"model": "topic", "input": "a goal"})
        scores = answer.json()["results"][0]["topic"]["scores"]
        assert scores["sport"] > 0.8 > 0.2 > scores["business"]
        assert {sent["max_tokens"] for sent in host.bodies} == {1}


def test_what_is_refused_has_no_row(
    database: Database, tokenizer: Tokenizer, topics: ClassifierFolder
) -> None:
    """Unless another text of the request was read before: then it has that one's tokens."""

    def steps(sent: dict[str, Any]) -> Sequence[Step]:
        if "refused" in tokenizer.decode(sent["prompt"]):
            return [0.2, *refusal(400, {"message": "not that"})]
        return label_logprobs(tokenizer, sent)

    def ask(*texts: str) -> httpx.Response:
        return client.post("/v1/classifications", json={"model": "topic", "input": texts})

    with gateway(database, tokenizer, steps, classifiers=topics) as (client, _):
        read = ask("a goal")
        refused = ask("to be refused")
        check(refused, 400, "invalid_request_error", "not that")
        half = ask("a goal", "to be refused")
        check(half, 400, "invalid_request_error", "not that")
        assert eventually(lambda: row_of(database, half) is not None)
        finished = [
            line for line in client.get("/metrics").text.splitlines() if "request_finished" in line
        ]
    row, row_of_half = row_of(database, read), row_of(database, half)
    assert row is not None and row_of_half is not None and row_of(database, refused) is None
    assert row_of_half.prompt_tokens == row.prompt_tokens
    assert sum(float(line.split()[-1]) for line in finished if "_total{" in line) == 2


def test_embeddings_come_from_its_own_endpoint(database: Database, tokenizer: Tokenizer) -> None:
    data = [{"embedding": [3.0, 4.0], "index": 0, "object": "embedding"}]
    answer = event({"data": data, "usage": {"prompt_tokens": 4, "total_tokens": 4}})
    steps: list[Step] = [head(200, "application/json"), answer.removeprefix(b"data: ")]
    with gateway(database, tokenizer, steps) as (client, host):
        given = client.post("/v1/embeddings", json={"model": "far", "input": "one"})
        assert given.json()["data"][0]["embedding"] == pytest.approx([0.6, 0.8])
        assert given.json()["usage"]["prompt_tokens"] == 4
        assert host.bodies[0] == {"model": "tiny", "input": "one", "encoding_format": "float"}


BROKEN: dict[str, tuple[list[Step], str]] = {
    "no ids": ([tokens([]).replace(b'"token_ids": []', b'"token_ids": null'), DONE], "0.10.2"),
    "half": ([tokens([300]), "reset"], "broke off"),
    "early end": ([tokens([300]), DONE], "ended before"),
    "aborted": ([tokens([300], "abort"), DONE], "'abort'"),
    "choice": ([tokens([300], index=3)], "choice 3"),
    "error": ([event({"error": {"message": "x"}})], "in the middle"),
    "garbage": ([event({"choices": 5})], "a chunk that is none"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks(database: Database, tokenizer: Tokenizer, name: str) -> None:
    steps, message = BROKEN[name]
    with gateway(database, tokenizer, [head(), *steps]) as (client, _):
        answer = client.post(CHAT, json=body())
        check(answer, 502, "upstream_failed", message)
        assert eventually(lambda: row_of(database, answer) is not None)
        row = row_of(database, answer)
        assert row is not None and row.status == "failed"


def test_leaving_cancels_and_the_row_counts_what_came(
    database: Database, tokenizer: Tokenizer
) -> None:
    ids = tokenizer.encode("Hello there")
    with gateway(database, tokenizer, [head(), tokens(ids), 30.0]) as (client, _):
        with client.stream("POST", CHAT, json=body(stream=True)) as answer:
            assert "assistant" in next(answer.iter_text())
            request_id = answer.headers["x-request-id"]
        assert eventually(lambda: ledger.find(database, request_id) is not None)
        row = ledger.find(database, request_id)
        assert row is not None and (row.status, row.usage_known) == ("aborted", True)
        assert row.completion_tokens == len(ids) and row.prompt_tokens > 0


def test_what_does_not_fit(database: Database, tokenizer: Tokenizer) -> None:
    with gateway(database, tokenizer, [head(), DONE]) as (client, host):
        data = check(
            client.post(CHAT, json=body(max_tokens=LENGTH)), 400, "invalid_request_prompt", "over"
        )
        assert data["code"] == "3051"
        assert not host.requests
