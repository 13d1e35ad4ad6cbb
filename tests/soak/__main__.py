"""Soaks a server: every kind of client at once, for long; then looks for what is left behind.

    python -m tests.soak [--seconds 1800] [--clients 48] [--model NAME]

Passes when no sound request got anything but an answer or a full queue's refusal, nothing was
stuck, memory stayed flat, every KV block came back, SIGTERM under load ended in time, and after
SIGKILL a new server gives the same answers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from tests.soak.clients import CHAT, Broken, Clients

QUIET = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_ratio")
MAX_GROWTH = 0.10
MAX_GROWTH_BYTES = 32 * 2**20
"""Resident memory after the last request over that after a third of the time; both may be had."""

DRAIN_S = 45.0
"""SIGTERM to exit: the server's 30 s for running requests, and what it takes to close."""


@dataclass
class Soak:
    """One soak of `model`. `log` is the story in lines."""

    model: str
    seconds: float
    clients: int
    memory: int = 700 * 2**20  # a small KV cache, so that all of it was written before a third
    serve_flags: tuple[str, ...] = ()
    log: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Raises Broken."""
        with TemporaryDirectory() as self._data:
            with self._started() as server:
                before = self._answer()
                self._load(server)
                self._check_quiet()
                self._drain(server)
            with self._started() as server:
                server.kill()  # whatever it was doing
            with self._started():
                if self._answer() != before:
                    raise Broken("after SIGKILL the same seed gives another text")
                self._say("after SIGKILL the same seed gives the same text")

    @contextmanager
    def _started(self) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "cierzo", "serve", self.model, "--port", "0"]
        command += ["--data", self._data, "--memory", f"{self.memory}B", *self.serve_flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                found = re.search(r"http://\S+?:\d+", process.stdout.readline())
                if found is None:
                    raise Broken("the server did not start")
                self._url = found[0]
                with urllib.request.urlopen(f"{self._url}/v1/models", timeout=60) as answer:
                    self._model_id = json.load(answer)["data"][0]["id"]
                yield process
            finally:
                process.kill()

    def _answer(self) -> str:
        messages = [{"role": "user", "content": "Tell me of the wind."}]
        body = {"model": self._model_id, "messages": messages, "random_seed": 7, "max_tokens": 20}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + CHAT, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])

    def _load(self, server: subprocess.Popen[str]) -> None:
        sizes: list[int] = []
        clients = Clients(self._url, self._model_id, seed=0)
        asyncio.run(self._behave(clients, server, sizes))
        counts = ", ".join(f"{name} {count}" for name, count in clients.counts.most_common())
        self._say(f"{sum(clients.counts.values())} requests: {counts}")
        third = max(sizes[: len(sizes) // 3 + 1])
        last = sizes[-1]
        self._say(
            f"resident memory: {third / 2**20:.0f} MiB after a third, {last / 2**20:.0f} at the end"
        )
        if last > self.memory:
            raise Broken(f"the server takes more than its --memory, {self.memory / 2**20:.0f} MiB")
        if last > third * (1 + MAX_GROWTH) and last > third + MAX_GROWTH_BYTES:
            raise Broken("memory grows")

    async def _behave(
        self, clients: Clients, server: subprocess.Popen[str], sizes: list[int]
    ) -> None:
        end = time.monotonic() + self.seconds

        async def one() -> None:
            while time.monotonic() < end:
                await clients.behave()

        async def watch() -> None:
            while time.monotonic() < end:
                sizes.append(psutil.Process(server.pid).memory_info().rss)
                await asyncio.sleep(min(1.0, self.seconds / 30))

        async with asyncio.TaskGroup() as group:
            for _ in range(self.clients):
                group.create_task(one())
            group.create_task(watch())
        sizes.append(psutil.Process(server.pid).memory_info().rss)

    def _check_quiet(self) -> None:
        """Nothing runs, waits or holds a block once the last client has gone."""
        deadline = time.monotonic() + 60
        while any(self._metric(name) for name in QUIET):
            if time.monotonic() > deadline:
                state = {name: self._metric(name) for name in QUIET}
                raise Broken(f"not all came back: {state}")
            time.sleep(0.1)
        self._say("nothing runs, nothing waits, every KV block is free")

    def _metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=60) as answer:
            found = re.search(rf"^cierzo_{name}{{[^}}]*}} (\S+)$", answer.read().decode(), re.M)
        assert found is not None
        return float(found[1])

    def _drain(self, server: subprocess.Popen[str]) -> None:
        """SIGTERM while streams run: they end, and so does the server."""
        clients = Clients(self._url, self._model_id, seed=1)
        length = {"max_tokens": 400, "min_tokens": 400}

        async def streams_and_sigterm() -> list[Any]:
            running = [asyncio.create_task(clients.streams(**length)) for _ in range(4)]
            while self._metric("num_requests_running") < 4:  # asked at once: it blocks for little
                await asyncio.sleep(0.01)
                if any(stream.done() for stream in running):  # so fast that four never meet
                    break
            server.send_signal(signal.SIGTERM)
            return await asyncio.gather(*running, return_exceptions=True)

        started = time.monotonic()
        outcomes = asyncio.run(streams_and_sigterm())
        try:
            code = server.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            raise Broken(f"SIGTERM was not obeyed within {DRAIN_S:g} s") from None
        broken = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if code != 0 or broken:
            raise Broken(f"SIGTERM: exit status {code}, {broken}")
        took_s = time.monotonic() - started
        self._say(f"SIGTERM under load: 4 of 4 streams ended, gone after {took_s:.1f} s")

    def _say(self, line: str) -> None:
        self.log.append(line)
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    arguments = parser.parse_args()
    flags = ("--max-running", "16", "--max-waiting", "16", "--max-model-len", "2048")
    try:
        Soak(arguments.model, arguments.seconds, arguments.clients, serve_flags=flags).run()
    except* Broken as group:
        for error in group.exceptions:
            print(f"broken: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
