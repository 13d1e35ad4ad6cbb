"""A real llama.cpp server as upstream of a real `cierzo serve`: `make llama LLAMA_SERVER=PATH`.

It serves the default model's file; this server relays. Prints a line per step.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import httpx2 as httpx

from cierzo import hub
from cierzo.settings import load_settings
from tests.server.test_chat import chunks, text_of
from tests.vllm.__main__ import (
    HI,
    PERSON,
    THERE,
    ask,
    free_port,
    running,
    url_printed_by,
    url_when_it_answers,
)

Upstream = subprocess.Popen[str]
CHAT = "/v1/chat/completions"
CONTEXT = 1024


def main() -> None:
    binary = os.environ.get("LLAMA_SERVER")
    if not binary:
        raise SystemExit("name llama.cpp's server: make llama LLAMA_SERVER=/path/to/llama-server")
    source = str(hub.resolve(hub.DEFAULT_MODEL, home=load_settings().home))
    command = [binary, "-m", source, "-np", "2", "-c", str(2 * CONTEXT), "--no-webui"]
    with gateway(command) as (client, upstream):
        for step in (whole_and_streamed, several, schema, refusals, leaving, killed):
            step(client, upstream)
            print(f"llama.cpp as upstream: {step.__name__} ok", flush=True)
    with gateway([*command, "--embeddings", "--pooling", "mean"]) as (client, upstream):
        embeddings(client)
        print("llama.cpp as upstream: embeddings ok", flush=True)


@contextmanager
def gateway(command: list[str]) -> Iterator[tuple[httpx.Client, Upstream]]:
    """A client of this server, and the process behind it."""
    port = free_port()
    cierzo = [sys.executable, "-m", "cierzo"]
    with (
        TemporaryDirectory(prefix="cierzo-llama-") as data,
        running([*command, "--host", "127.0.0.1", "--port", port]) as upstream,
    ):
        where = ["--data", data]
        url = url_when_it_answers(upstream, port)
        subprocess.run([*cierzo, "upstream", "add", "box", "--url", url, *where], check=True)
        theirs = httpx.get(url + "/v1/models").json()["data"][0]["id"]
        rename = ["upstream", "set", "box", "--model", f"{THERE}={theirs}"]
        subprocess.run([*cierzo, *rename, *where], check=True)
        with running([*cierzo, "serve", "--only-upstreams", "--port", "0", *where]) as server:
            with httpx.Client(base_url=url_printed_by(server), timeout=300) as client:
                yield client, upstream


def whole_and_streamed(client: httpx.Client, upstream: Upstream) -> None:
    (card,) = client.get("/v1/models").json()["data"]
    assert (card["id"], card["max_context_length"]) == (THERE, CONTEXT)
    whole = ask(client, THERE, random_seed=1)
    body = {"model": THERE, "messages": HI, "temperature": 0, "max_tokens": 24, "stream": True}
    streamed = chunks(client.post(CHAT, json=body))
    assert text_of(streamed) == whole["choices"][0]["message"]["content"]
    assert whole["usage"]["completion_tokens"] == 24
    for usage in (whole["usage"], streamed[-1]["usage"]):
        assert usage["prompt_tokens"] == whole["usage"]["prompt_tokens"] > 0
    stop = text_of(streamed)[7:10]
    answer = ask(client, THERE, stop=[stop])["choices"][0]
    assert answer["finish_reason"] == "stop" and stop not in answer["message"]["content"]


def several(client: httpx.Client, upstream: Upstream) -> None:
    """Its counts come once per choice."""
    answer = ask(client, THERE, n=2, max_tokens=6)
    assert len(answer["choices"]) == 2 and answer["usage"]["completion_tokens"] == 12


def schema(client: httpx.Client, upstream: Upstream) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = ask(client, THERE, response_format=form, max_tokens=200)
    assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"name", "age"}


def refusals(client: httpx.Client, upstream: Upstream) -> None:
    long = [{"role": "user", "content": "word " * 2 * CONTEXT}]
    refusal = client.post(CHAT, json={"model": THERE, "messages": long})
    assert (refusal.status_code, refusal.json()["code"]) == (400, "3051"), refusal.text
    for path, body in (
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/fim/completions", {"prompt": "x"}),
        (CHAT, {"messages": HI, "logprobs": True}),
    ):
        refusal = client.post(path, json={"model": THERE, **body})
        assert refusal.json()["type"] == "invalid_request_error", refusal.text


def leaving(client: httpx.Client, upstream: Upstream) -> None:
    """What clients leave ends there: both places are free again."""
    body = {"model": THERE, "messages": HI, "stream": True, "max_tokens": 900}
    for _ in range(4):
        with client.stream("POST", CHAT, json=body) as answer:
            pieces = answer.iter_text()
            next(pieces)
    assert ask(client, THERE, max_tokens=2)["usage"]["completion_tokens"] == 2


def killed(client: httpx.Client, upstream: Upstream) -> None:
    """In the middle of an answer, which ends with "error"; then it is away."""
    body = {"model": THERE, "messages": HI, "stream": True, "max_tokens": 900}
    with client.stream("POST", CHAT, json=body) as answer:
        pieces = answer.iter_text()
        begun = next(pieces)
        os.kill(upstream.pid, signal.SIGKILL)
        assert '"finish_reason":"error"' in begun + "".join(pieces)
    refusal = client.post(CHAT, json={"model": THERE, "messages": HI})
    assert refusal.status_code == 503 and "cannot be reached" in refusal.json()["message"]


def embeddings(client: httpx.Client) -> None:
    answer = client.post("/v1/embeddings", json={"model": THERE, "input": ["a cat", "a dog"]})
    assert answer.status_code == 200, answer.text
    for item in answer.json()["data"]:
        assert abs(sum(number**2 for number in item["embedding"]) - 1) < 1e-3
    assert answer.json()["usage"]["prompt_tokens"] > 0
    short = client.post(
        "/v1/embeddings", json={"model": THERE, "input": "a cat", "output_dimension": 64}
    )
    assert len(short.json()["data"][0]["embedding"]) == 64, short.text


if __name__ == "__main__":
    main()
