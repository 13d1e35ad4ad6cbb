"""What a user does with a `mistralai` SDK, version by version, against a running server.

Runs alone, in an environment that has one SDK and nothing of ours:
    python scenario.py http://127.0.0.1:8000 MODEL
Prints a line per step and exits 0, or dies on the first broken one. Works for 1.x, 2.x, 3.x.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import BaseModel

VERSION = importlib.metadata.version("mistralai")
if VERSION.startswith("1."):
    from mistralai import Mistral  # type: ignore[attr-defined]
    from mistralai import models as errors  # type: ignore[attr-defined]
else:
    from mistralai.client import Mistral, errors

SURE = {"temperature": 0.0, "random_seed": 1}
"""The same answer every time; how long it is, is the model's."""

HELLO = [{"role": "user", "content": "Say hello."}]
WEATHER = [{"role": "user", "content": "What is the weather in Huesca?"}]
PERSON = [{"role": "user", "content": "Describe a person as JSON."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Huesca", "Jaca"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Person(BaseModel):
    """Of closed sets, so that even a model that knows nothing can fill it in."""

    is_friend: bool
    count: int


def raises(kind: type[Exception], act: Callable[[], object]) -> Any:
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}")


def list_models(client: Any, model: str) -> None:
    cards = client.models.list().data
    card = next(card for card in cards if card.id == model)
    assert card.capabilities.completion_chat is True
    assert client.models.retrieve(model_id=model).max_context_length == card.max_context_length


def chat(client: Any, model: str) -> None:
    answer = client.chat.complete(model=model, messages=HELLO, max_tokens=8, **SURE)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.model == model
    assert choice.finish_reason in ("stop", "length")
    assert isinstance(choice.message.content, str)
    usage = answer.usage
    assert usage.prompt_tokens > 0 and 0 <= usage.completion_tokens <= 8
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def stream(client: Any, model: str) -> None:
    fields = {"model": model, "messages": HELLO, "max_tokens": 8, **SURE}
    answer = client.chat.complete(**fields)
    whole = answer.choices[0].message.content
    chunks = [event.data for event in client.chat.stream(**fields)]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def prefix(client: Any, model: str) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Well, ", "prefix": True}]
    answer = client.chat.complete(model=model, messages=messages, max_tokens=4, **SURE)
    assert answer.choices[0].message.content.startswith("Well, ")


def tools(client: Any, model: str) -> None:
    """A forced call, whole and streamed, and the conversation that goes on with its result.

    One call only: small models, once made to call, do not stop.
    """
    fields = {
        "model": model,
        "messages": WEATHER,
        "tools": [TOOL],
        "tool_choice": "any",
        "parallel_tool_calls": False,
        **SURE,
    }
    choice = client.chat.complete(**fields).choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Huesca", "Jaca")
    deltas = [event.data.choices[0].delta for event in client.chat.stream(**fields)]
    streamed = [item for delta in deltas for item in delta.tool_calls or ()]
    assert streamed[0].function.name == "weather"
    assert json.loads(streamed[0].function.arguments)["city"] in ("Huesca", "Jaca")
    result = {"role": "tool", "name": "weather", "content": "windy", "tool_call_id": call.id}
    said = {"role": "assistant", "content": "", "tool_calls": [call.model_dump()]}
    history = [*WEATHER, said, result]
    answer = client.chat.complete(model=model, messages=history, tools=[TOOL], max_tokens=4, **SURE)
    assert answer.choices[0].message.role == "assistant"


def parse(client: Any, model: str) -> None:
    """`chat.parse` into a pydantic class (json_schema), and json_object mode."""
    fields = {"model": model, "messages": PERSON, "max_tokens": 99, **SURE}
    answer = client.chat.parse(Person, **fields)
    assert isinstance(answer.choices[0].message.parsed, Person)
    answer = client.chat.complete(response_format={"type": "json_object"}, **fields)
    assert answer.choices[0].message.content.lstrip().startswith("{")


def fim(client: Any, model: str) -> None:
    """Where the model can fill in the middle; elsewhere it says that it cannot."""
    fields = {"model": model, "prompt": "def f(", "suffix": "return x", "max_tokens": 8}
    fields |= SURE
    if not client.models.retrieve(model_id=model).capabilities.completion_fim:
        refused = raises(errors.SDKError, lambda: client.fim.complete(**fields))
        assert refused.status_code == 400 and "fill in the middle" in refused.body
        return
    answer = client.fim.complete(**fields)
    assert answer.usage.completion_tokens <= 8 and answer.model == model
    whole = answer.choices[0].message.content
    chunks = [event.data for event in client.fim.stream(**fields)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens


def embed(client: Any, model: str) -> None:
    answer = client.embeddings.create(model=model, inputs=["north wind", "south wind"])
    assert answer.object == "list" and answer.usage.prompt_tokens > 0
    assert [item.index for item in answer.data] == [0, 1]
    for item in answer.data:
        assert abs(sum(value * value for value in item.embedding) - 1) < 1e-3
    (alone,) = client.embeddings.create(model=model, inputs="south wind").data
    assert alone.embedding == answer.data[1].embedding
    (short,) = client.embeddings.create(
        model=model, inputs="south wind", output_dimension=8, output_dtype="int8"
    ).data
    assert len(short.embedding) == 8 and max(map(abs, short.embedding)) == 127


def moderate(client: Any, model: str) -> None:
    """The hosted models' names; each category has a verdict and a score."""
    for name, num_categories in (("mistral-moderation-2603", 11), ("mistral-moderation-2411", 9)):
        answer = client.classifiers.moderate(model=name, inputs=["A quiet day.", "Another."])
        assert len(answer.results) == 2 and answer.model == name
        for result in answer.results:
            assert len(result.categories) == len(result.category_scores) == num_categories
            assert all(0 <= score <= 1 for score in result.category_scores.values())
    answer = client.classifiers.moderate_chat(model="mistral-moderation-2603", inputs=HELLO)
    assert len(answer.results) == 1
    answer = client.classifiers.moderate_chat(model="mistral-moderation-2603", inputs=[HELLO] * 2)
    assert len(answer.results) == 2


def classify(client: Any, model: str) -> None:
    """With a classifier of labels, where the server has one."""
    cards = client.models.list().data
    named = [card.id for card in cards if card.capabilities.classification]
    if not named:
        return
    name = named[-1]
    answer = client.classifiers.classify(model=name, inputs=["They won the match.", "Shares fell."])
    assert len(answer.results) == 2
    for result in answer.results:
        assert abs(sum(result[name].scores.values()) - 1) < 1e-6
    given = "inputs" if VERSION.startswith("1.") else "input"
    chat = client.classifiers.classify_chat(model=name, **{given: {"messages": HELLO}})
    assert abs(sum(chat.results[0][name].scores.values()) - 1) < 1e-6


def guardrails(client: Any, model: str) -> None:
    """A threshold of zero is always reached."""
    if VERSION.startswith("1."):
        return  # these fields came with 2.x
    moderation = {"custom_category_thresholds": {"law": 0.0}, "ignore_other_categories": True}
    fields = {"model": model, "messages": HELLO, "max_tokens": 2}
    blocking = [{"block_on_error": True, "moderation_llm_v2": {**moderation, "action": "block"}}]
    blocked = raises(errors.SDKError, lambda: client.chat.complete(**fields, guardrails=blocking))
    assert blocked.status_code == 403
    results = json.loads(blocked.body)["guardrails"]["results"]
    assert results["moderation_llm_v2"]["decisions"]["law"]["violated"] is True
    telling = [{"moderation_llm_v2": {**moderation, "action": "none"}}]
    assert client.chat.complete(**fields, guardrails=telling).choices


def files(client: Any, model: str) -> None:
    data = b'{"a": 1}\n{"a": 2}\n'
    given = {"file_name": "two.jsonl", "content": data}
    made = client.files.upload(file=given, purpose="batch")
    assert (made.filename, made.purpose, made.num_lines) == ("two.jsonl", "batch", 2)
    found = client.files.retrieve(file_id=made.id)
    assert found.id == made.id and found.deleted is False
    listed = client.files.list(purpose="batch", page_size=1, search="two")
    assert listed.data[0].id == made.id and listed.total >= 1
    assert client.files.download(file_id=made.id).read() == data
    assert made.id in client.files.get_signed_url(file_id=made.id, expiry=1).url
    assert client.files.delete(file_id=made.id).deleted is True
    missing = raises(errors.SDKError, lambda: client.files.retrieve(file_id=made.id))
    assert missing.status_code == 404


def batch(client: Any, model: str) -> None:
    """Two lines that are answered and one that is refused, by file; a job that is cancelled."""
    lines = [{"custom_id": str(n), "body": {"messages": HELLO, "max_tokens": 2}} for n in range(2)]
    lines.append({"custom_id": "bad", "body": {"messages": HELLO, "temperature": 9}})
    content = "\n".join(json.dumps(line) for line in lines).encode()
    data = {"file_name": "in.jsonl", "content": content}
    file = client.files.upload(file=data, purpose="batch")
    fields = {"endpoint": "/v1/chat/completions", "input_files": [file.id], "model": model}
    job = client.batch.jobs.create(metadata={"team": "a"}, **fields)
    while job.status in ("QUEUED", "RUNNING"):
        time.sleep(0.05)
        job = client.batch.jobs.get(job_id=job.id)
    assert (job.status, job.succeeded_requests, job.failed_requests) == ("SUCCESS", 2, 1)
    listed = client.batch.jobs.list(metadata={"team": "a"}, page_size=1)
    assert listed.data[0].id == job.id and listed.total >= 1
    output = client.files.download(file_id=job.output_file).read().splitlines()
    assert [json.loads(line)["custom_id"] for line in output] == ["0", "1"]
    (failed,) = client.files.download(file_id=job.error_file).read().splitlines()
    assert json.loads(failed)["response"]["status_code"] == 422
    again = client.batch.jobs.create(**fields)
    ends = ("CANCELLATION_REQUESTED", "CANCELLED", "SUCCESS")
    assert client.batch.jobs.cancel(job_id=again.id).status in ends
    missing = raises(errors.SDKError, lambda: client.batch.jobs.get(job_id="none"))
    assert missing.status_code == 404
    wrong = {**fields, "timeout_hours": 1000}
    # The vendor's own class for a faulty body is thrown where its document has a 422: not here.
    assert raises(errors.SDKError, lambda: client.batch.jobs.create(**wrong)).status_code == 422
    for file_id in (file.id, job.output_file, job.error_file):
        client.files.delete(file_id=file_id)


def refusals(client: Any, model: str) -> None:
    unknown = raises(
        errors.SDKError, lambda: client.chat.complete(model="no-such-model", messages=HELLO)
    )
    assert unknown.status_code == 400 and "Invalid model" in unknown.body
    order = [*HELLO, {"role": "assistant", "content": "Hello"}]
    wrong = raises(errors.SDKError, lambda: client.chat.complete(model=model, messages=order))
    assert json.loads(wrong.body)["code"] == "3230"
    missing = raises(errors.SDKError, lambda: client.models.retrieve(model_id="no-such-model"))
    assert missing.status_code == 404
    invalid = raises(
        errors.HTTPValidationError,
        lambda: client.chat.complete(model=model, messages=HELLO, temperature=9.0),
    )
    assert invalid.data.detail[0].loc[-1] == "temperature"
    streamed = raises(
        errors.SDKError, lambda: client.chat.stream(model="no-such-model", messages=HELLO)
    )
    assert streamed.status_code == 400
    unnamed: list[tuple[Any, dict[str, Any]]] = [
        (client.fim.complete, {"prompt": "def f("}),
        (client.embeddings.create, {"inputs": "x"}),
        (client.classifiers.moderate, {"inputs": "x"}),
        (client.classifiers.classify, {"inputs": "x"}),
    ]
    for call, fields in unnamed:
        refused = raises(errors.SDKError, partial(call, model="no-such-model", **fields))
        assert refused.status_code == 400 and json.loads(refused.body)["code"] == "1500"
        assert refused.headers["x-request-id"]
    faulty: list[tuple[Any, dict[str, Any]]] = [
        (client.fim.complete, {"prompt": "def f(", "top_p": 9.0}),
        (client.embeddings.create, {"inputs": "x", "output_dimension": -1}),
        (client.classifiers.moderate, {"inputs": []}),
    ]
    for call, fields in faulty:
        raises(errors.HTTPValidationError, partial(call, model=model, **fields))
    data = {"file_name": "a", "content": b"x"}
    purpose = raises(errors.SDKError, lambda: client.files.upload(file=data, purpose="A B"))
    assert purpose.status_code == 422


STEPS = (
    *(list_models, chat, stream, prefix, tools, parse, fim, embed),
    *(moderate, classify, guardrails, files, batch, refusals),
)


def main(url: str, model: str) -> None:
    with Mistral(api_key="none", server_url=url) as client:
        for step in STEPS:
            step(client, model)
            print(f"mistralai {VERSION}: {step.__name__} ok", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
