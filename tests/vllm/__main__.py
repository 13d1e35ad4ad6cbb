"""A real vLLM server as upstream of a real `cierzo serve`, over sockets: `make vllm`.

The default model runs on both, here from its GGUF file and there from the same weights in bf16, and
must find the same tokens likely: then prompt, tokens and their reading are the same. Prints a line
per step.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2 as httpx

from cierzo import hub
from cierzo.models.loading import ensure_packed
from cierzo.settings import load_settings

VLLM_PYTHON = Path(".venv-vllm/bin/python")
START_S = 900.0
HERE, THERE = hub.DEFAULT_MODEL, "elsewhere"
TIE = 0.5
"""Nats that rounding may move a logprob."""
HI = [{"role": "user", "content": "Name three colours."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def main() -> None:
    settings = load_settings()
    source = hub.resolve(HERE, home=settings.home)
    tokenizer = ensure_packed(source, "auto", cache_dir=settings.home / "packed")
    with TemporaryDirectory(prefix="cierzo-vllm-") as work:
        folder = Path(work) / "model"
        maker: list[str | Path] = [VLLM_PYTHON, "-m", "benchmarks.rivals.vllm_folder"]
        subprocess.run([*maker, source, folder], check=True)
        with vllm_server(folder) as url:
            cierzo = [sys.executable, "-m", "cierzo"]
            data = ["--data", f"{work}/data"]
            add = ["upstream", "add", "gpus", "--url", url, "--model", f"{THERE}=smol"]
            subprocess.run([*cierzo, *add, "--tokenizer", tokenizer, *data], check=True)
            labels = ["classifier", "create", "topic", "--labels", "business,sport"]
            subprocess.run([*cierzo, *labels, "--model", THERE, *data], check=True)
            with running([*cierzo, "serve", HERE, "--port", "0", *data]) as server:
                with httpx.Client(base_url=url_printed_by(server), timeout=300) as client:
                    for step in (same_reading, stop_strings, schema, tools, classifier, leaving):
                        step(client)
                        print(f"vLLM as upstream: {step.__name__} ok", flush=True)


@contextmanager
def running(command: Sequence[object], **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The process, in a group of its own, which is ended at the end."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **variables},
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)


@contextmanager
def vllm_server(folder: Path) -> Iterator[str]:
    port = free_port()
    flags = {"model": folder, "served-model-name": "smol", "host": "127.0.0.1", "port": port}
    flags |= {"max-model-len": 2048, "max-num-seqs": 4, "dtype": "bfloat16"}
    command = [VLLM_PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += ["--structured-outputs-config.backend", "guidance"]
    command += [part for name, value in flags.items() for part in (f"--{name}", value)]
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with running(command, VLLM_CPU_KVCACHE_SPACE="1", **quiet) as process:
        yield url_when_it_answers(process, port)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def url_when_it_answers(process: subprocess.Popen[str], port: int) -> str:
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_S
    while True:
        try:
            httpx.get(url + "/v1/models").raise_for_status()
            return url
        except httpx.HTTPError:
            assert process.poll() is None, "the upstream ended before it served"
            assert time.monotonic() < deadline, f"it did not serve within {START_S:g} s"
            time.sleep(0.5)


def url_printed_by(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    return server.stdout.readline().split()[2].rstrip(";")


def ask(client: httpx.Client, model: str, **fields: Any) -> dict[str, Any]:
    body = {"model": model, "messages": HI, "temperature": 0, "max_tokens": 24, **fields}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()
    return choice


def same_reading(client: httpx.Client) -> None:
    """Of one prompt; answers may part at a near tie, which the rounding of weights decides."""
    fields = {"logprobs": True, "top_logprobs": 5}
    here, there = (ask(client, model, **fields) for model in (HERE, THERE))
    assert here["usage"]["prompt_tokens"] == there["usage"]["prompt_tokens"]
    tokens = [answer["choices"][0]["logprobs"]["content"] for answer in (here, there)]
    text = there["choices"][0]["message"]["content"]
    assert text == "".join(entry["token"] for entry in tokens[1])
    for ours, theirs in zip(*tokens, strict=True):
        likely = {entry["token_id"]: entry["logprob"] for entry in ours["top_logprobs"]}
        assert likely[theirs["token_id"]] > ours["logprob"] - TIE, (ours, theirs)
        if ours["token_id"] != theirs["token_id"]:
            break
        assert abs(ours["logprob"] - theirs["logprob"]) < TIE, (ours, theirs)


def stop_strings(client: httpx.Client) -> None:
    text = ask(client, THERE)["choices"][0]["message"]["content"]
    stop = text[7:10]
    (answer,) = ask(client, THERE, stop=[stop])["choices"]
    assert answer["message"]["content"] == text[: text.index(stop)]
    assert answer["finish_reason"] == "stop"


def schema(client: httpx.Client) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    answer = ask(client, THERE, response_format=form, max_tokens=80)
    person = json.loads(answer["choices"][0]["message"]["content"])
    assert set(person) == {"name", "age"} and 0 <= person["age"] <= 99


def tools(client: httpx.Client) -> None:
    """Without a tool parser on vLLM's side: the spelling is this server's business."""
    tool = {"function": {"name": "introduce", "parameters": PERSON}}
    fields = {"tools": [tool], "tool_choice": "any", "parallel_tool_calls": False}
    answer = ask(client, THERE, max_tokens=80, **fields)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "introduce"
    assert set(json.loads(call["function"]["arguments"])) == {"name", "age"}


def classifier(client: httpx.Client) -> None:
    texts = ["The striker scored a late goal.", "Shares fell."]
    answer = client.post("/v1/classifications", json={"model": "topic", "input": texts})
    assert answer.status_code == 200, answer.text
    for result in answer.json()["results"]:
        assert abs(sum(result["topic"]["scores"].values()) - 1) < 1e-6


def leaving(client: httpx.Client) -> None:
    """What a client leaves ends there: the next answer does not wait for 1900 tokens."""
    body = {"model": THERE, "messages": HI, "stream": True, "min_tokens": 1900}
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_text())
    assert ask(client, THERE, max_tokens=2)["usage"]["completion_tokens"] == 2


if __name__ == "__main__":
    main()
