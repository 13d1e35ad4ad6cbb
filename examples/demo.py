"""From nothing to a streamed answer: fetch a model, serve it, ask it through the mistralai SDK.

    python examples/demo.py [MODEL]

The server is a process of its own on a free port, exactly `cierzo serve`; the client is the
official SDK, told only another address.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from mistralai.client import Mistral
from mistralai.client.models import UserMessage

from cierzo import hub

QUESTION = "Why is the sky blue? Answer in three sentences."


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else hub.DEFAULT_MODEL
    with running_server(model) as (url, server):
        print(f"\n{QUESTION}\n", flush=True)
        ask(url, server.pid)


@contextmanager
def running_server(model: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`cierzo serve` on a free port; its progress goes to our stderr, its address is read."""
    command = [sys.executable, "-m", "cierzo", "serve", model, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield address_of(server), server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def address_of(server: subprocess.Popen[str]) -> str:
    """The URL in the line that the server prints when it is ready."""
    assert server.stdout is not None
    for line in server.stdout:
        if found := re.search(r"http://\S+:\d+", line):
            return found.group()
    sys.exit(server.wait())


def ask(url: str, pid: int) -> None:
    """Stream one answer to the terminal, then say what it took."""
    client = Mistral(api_key="unused", server_url=url)
    [card, *_] = client.models.list().data or []
    model = card.model_dump()["id"]
    started = time.perf_counter()
    first = last = started
    usage = None
    with client.chat.stream(
        model=model,
        messages=[UserMessage(content=QUESTION)],
        max_tokens=128,
        random_seed=7,
    ) as stream:
        for event in stream:
            delta = event.data.choices[0].delta.content if event.data.choices else None
            if delta:
                last = time.perf_counter()
                first = last if first == started else first
                print(delta, end="", flush=True)
            usage = event.data.usage or usage
    assert usage is not None, "the last chunk carries the usage"
    decoded = max((usage.completion_tokens or 1) - 1, 1)
    print("\n")
    print(f"model                {model}")
    print(f"prompt tokens        {usage.prompt_tokens}")
    print(f"completion tokens    {usage.completion_tokens}")
    print(f"time to first token  {1000 * (first - started):.0f} ms")
    print(f"tokens per second    {decoded / max(last - first, 1e-9):.0f}")
    print(f"resident memory      {psutil.Process(pid).memory_info().rss / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
