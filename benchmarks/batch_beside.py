"""What a batch job costs those who wait: streaming clients alone, with a job beside them, and with
one more client instead, which is what the job shall cost at most.

    python -m benchmarks.batch_beside [--model NAME] [--clients 1,4] [--rounds 3]

Rounds alternate, so that a machine that changes its pace changes both. Clients ask as in
`benchmarks.server`: prompts of about 128 tokens of their own, 64 tokens out, one after the other.
The job has enough lines of the same kind to outlast them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.clients import NUM_OUT, Answered, body_of, chat_texts, load
from benchmarks.server import percentiles, served

NUM_LINES = 2000
JOBS = "/v1/batch/jobs"


def call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    with urlopen(Request(url, data, headers), timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def running_job(url: str, model: str) -> Iterator[str]:
    """A job that is under way; its id. Cancelled at the end."""
    texts = chat_texts(NUM_LINES, random.randrange(10**6))
    lines = [{"body": {**body_of(model, text, NUM_OUT), "stream": False}} for text in texts]
    job_id = call(url + JOBS, {"endpoint": "/v1/chat/completions", "requests": lines})["id"]
    while call(f"{url}{JOBS}/{job_id}")["completed_requests"] < 32:
        time.sleep(0.05)
    try:
        yield job_id
    finally:
        call(f"{url}{JOBS}/{job_id}/cancel", {})
        while call(f"{url}{JOBS}/{job_id}")["status"] != "CANCELLED":
            time.sleep(0.05)


def ask(url: str, model: str, clients: int, count: int) -> list[Answered]:
    texts = chat_texts(count, random.randrange(10**6))
    return asyncio.run(load(url, model, texts, clients, NUM_OUT))


def shown(answers: list[Answered]) -> str:
    ttft = percentiles([1000 * one.first_s for one in answers])
    tpot = percentiles(
        [1000 * (one.last_s - one.first_s) / max(1, one.num_tokens - 1) for one in answers]
    )
    return (
        f"first token {ttft[0]:.0f} ms (p95 {ttft[1]:.0f}), per token {tpot[0]:.2f} ms"
        f" (p95 {tpot[1]:.2f}), {len(answers)} requests"
    )


def compare(url: str, model: str, clients: int, rounds: int) -> None:
    alone: list[Answered] = []
    beside: list[Answered] = []
    one_more: list[Answered] = []
    num_lines, took_s = 0, 0.0
    for _ in range(rounds):
        alone += ask(url, model, clients, 4 * clients)
        with running_job(url, model) as job_id:
            before, started = call(f"{url}{JOBS}/{job_id}"), time.perf_counter()
            beside += ask(url, model, clients, 4 * clients)
            took_s += time.perf_counter() - started
            after = call(f"{url}{JOBS}/{job_id}")
        num_lines += after["completed_requests"] - before["completed_requests"]
        one_more += ask(url, model, clients + 1, 4 * (clients + 1))
    print(f"{clients} clients:             {shown(alone)}")
    print(f"{clients} clients and a batch: {shown(beside)}")
    print(f"{clients + 1} clients:             {shown(one_more)}")
    print(f"  the batch meanwhile: {60 * num_lines / took_s:.0f} lines a minute", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--clients", default="1,4")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cierzo-data-") as data:
        os.environ["CIERZO_DATA"] = data  # a store of its own for the server
        with served(arguments.model) as url:
            ask(url, arguments.model, 1, 2)
            for clients in map(int, arguments.clients.split(",")):
                compare(url, arguments.model, clients, arguments.rounds)


if __name__ == "__main__":
    main()
