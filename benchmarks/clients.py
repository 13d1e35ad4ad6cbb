"""The clients of `benchmarks.server`: what they ask, and how they read what a server streams.

They share their cores with what they measure. So bytes are looked at where they arrive, without a
task to wake, and of an answer only the end is parsed.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

NUM_OUT = 64
RIVAL = "rival"
"""What every server but ours calls its model. They tell the usage only to those who ask for it."""

WORDS = (
    "time year people way day man thing woman life child world school state family student group"
    " country problem hand part place case week company system program question work government"
    " number night point home water room mother area money story fact month lot right study book"
).split()

TAIL_NBYTES = 4096
"""Of an answer: enough for the events that may carry its usage."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One request, in seconds after it was sent. `first_s` is its first text."""

    first_s: float
    last_s: float
    num_prompt_tokens: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Row:
    """What a number of clients measured. Latencies in milliseconds: p50, p95, p99."""

    server: str
    work: str
    clients: int
    requests: int
    tokens_per_s: float
    items_per_min: float
    prompt_tokens: float
    ttft_ms: tuple[float, float, float]
    tpot_ms: tuple[float, float, float]


def work_of(work: str, clients: int, turn: int) -> tuple[list[str], int]:
    """Texts, and tokens out for each. No two cases share texts: they would be cached."""
    seed = clients + 1000 * turn
    if work == "classify":
        return classify_texts(256, seed), 1
    return chat_texts(max(16, 2 * clients), seed), NUM_OUT


def chat_texts(count: int, seed: int) -> list[str]:
    chooser = random.Random(seed)
    return [" ".join(chooser.choices(WORDS, k=96)) + f" {seed}-{i}" for i in range(count)]


def classify_texts(count: int, seed: int) -> list[str]:
    chooser = random.Random(seed)
    shared = " ".join(chooser.choices(WORDS, k=400))
    return [f"{shared} {' '.join(chooser.choices(WORDS, k=54))} {i}" for i in range(count)]


def body_of(model: str, text: str, num_out: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    options = {"stream_options": {"include_usage": True}} if model == RIVAL else {}
    body = {"model": model, "messages": messages, "max_tokens": num_out, "temperature": 0}
    return body | {"stream": True} | options


async def load(
    url: str, model: str, texts: list[str], clients: int, num_out: int
) -> list[Answered]:
    """All texts asked by so many clients, each after the other. Their answers."""
    waiting, answers = list(reversed(texts)), []

    async def client() -> None:
        with closing(Connection(url)) as connection:
            while waiting:
                answers.append(await connection.ask(body_of(model, waiting.pop(), num_out)))

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


class Connection(asyncio.Protocol):
    """One client's, kept open from request to request as the SDKs do."""

    def __init__(self, url: str) -> None:
        self._at = urlsplit(url)
        self._transport: asyncio.Transport | None = None
        self._ended: asyncio.Future[None] | None = None
        self._tail = b""
        self._num_texts = 0
        self._first_s = self._last_s = 0.0  # by `time.perf_counter()`; 0: no text yet

    async def ask(self, body: dict[str, Any]) -> Answered:
        """Post `body` and read its answer. Raises RuntimeError, ConnectionError."""
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self._at.netloc}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        started_s = time.perf_counter()
        try:
            await self._exchange(head.encode() + data)
        except ConnectionError:  # some servers close idle ones
            await self._exchange(head.encode() + data)
        return self._answered(started_s)

    async def _exchange(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._tail, self._num_texts = b"", 0
        self._first_s = self._last_s = 0.0
        self._ended = loop.create_future()
        if self._transport is None:
            assert self._at.hostname is not None and self._at.port is not None
            await loop.create_connection(lambda: self, self._at.hostname, self._at.port)
        assert self._transport is not None
        self._transport.write(request)
        await self._ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._ended is not None and not self._ended.done(), f"nobody asked for {data!r}"
        if not self._tail and b" 200 " not in data.partition(b"\r\n")[0]:
            self._ended.set_exception(RuntimeError(data.decode()))
            return
        if num_new := data.count(b'"content":"') - data.count(b'"content":""'):
            self._num_texts += num_new
            self._last_s = time.perf_counter()
            self._first_s = self._first_s or self._last_s
        self._tail = (self._tail + data)[-TAIL_NBYTES:]
        if self._tail.endswith(b"\r\n0\r\n\r\n"):
            self._ended.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._ended is None or self._ended.done():
            return
        broke_off = RuntimeError(f"the answer broke off: {self._tail!r}")
        self._ended.set_exception(broke_off if self._tail else ConnectionResetError())

    def _answered(self, started_s: float) -> Answered:
        """Answers may be an end and no text."""
        lines = [line[6:] for line in self._tail.splitlines() if line.startswith(b"data: {")]
        usages = [usage for line in lines if (usage := json.loads(line).get("usage"))]
        usage = usages[-1] if usages else {}
        last_s = self._last_s or time.perf_counter()
        first_s = self._first_s or last_s
        num_tokens = usage.get("completion_tokens", self._num_texts)
        num_prompt_tokens = usage.get("prompt_tokens", 0)
        return Answered(first_s - started_s, last_s - started_s, num_prompt_tokens, num_tokens)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
