"""Clients of every kind, good and bad. Each raises Broken for what a server must never do."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

DEADLINE_S = 240.0
"""For any one request on a machine that does other things too: who is not done then is stuck."""

CHAT = "/v1/chat/completions"


class Broken(Exception):
    """The server did what it must not do."""


class Clients:
    """One server's clients. `counts` says what became of their requests."""

    def __init__(self, url: str, model: str, seed: int, max_tokens: int = 40) -> None:
        at = urlsplit(url)
        self._host, self._port = at.hostname, at.port
        self._model = model
        self._max_tokens = max_tokens
        self._chooser = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.kinds: tuple[Callable[[], Awaitable[None]], ...] = (
            self.streams,
            self.streams,
            self.asks,
            self.asks,
            self.holds_to_a_schema,
            self.wants_several,
            self.sends_a_long_prompt,
            self.leaves_before_the_first_token,
            self.leaves_in_mid_stream,
            self.leaves_in_mid_body,
            self.reads_slowly,
            self.sends_nonsense,
            self.looks_around,
        )

    async def behave(self) -> None:
        """One request of some kind, within the deadline."""
        kind = self._chooser.choice(self.kinds)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await kind()
        except TimeoutError:
            raise Broken(f"{kind.__name__} was not done after {DEADLINE_S:g} s") from None
        self.counts[kind.__name__] += 1

    async def streams(self, **fields: Any) -> None:
        answer = await self._post(self._body(stream=True, **fields))
        is_whole = answer.endswith(b"0\r\n\r\n") and b"data: [DONE]" in answer
        if self._is_answer(answer) and not is_whole:
            raise Broken(f"a stream without its end: {answer[-300:]!r}")

    async def asks(self) -> None:
        answer = await self._post(self._body())
        if self._is_answer(answer):
            body = json.loads(answer.partition(b"\r\n\r\n")[2])
            if body["choices"][0]["finish_reason"] not in ("stop", "length"):
                raise Broken(f"an answer that did not end well: {body['choices'][0]}")

    async def holds_to_a_schema(self) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
        held = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        self._is_answer(await self._post(self._body(response_format=held)))

    async def wants_several(self) -> None:
        self._is_answer(await self._post(self._body(n=3, temperature=1.0, logprobs=True)))

    async def sends_a_long_prompt(self) -> None:
        self._is_answer(await self._post(self._body(num_words=250)))

    async def leaves_before_the_first_token(self) -> None:
        _, writer = await self._send(self._body(stream=self._chooser.random() < 0.5))
        await asyncio.sleep(self._chooser.random() * 0.05)
        writer.transport.abort()

    async def leaves_in_mid_stream(self) -> None:
        reader, writer = await self._send(self._body(stream=True))
        for _ in range(self._chooser.randrange(2, 20)):
            await reader.readline()
        writer.transport.abort()

    async def leaves_in_mid_body(self) -> None:
        data = self._bytes(self._body())
        _, writer = await self._connect()
        writer.write(data[: self._chooser.randrange(1, len(data))])
        await asyncio.sleep(self._chooser.random())
        writer.transport.abort()

    async def reads_slowly(self) -> None:
        reader, writer = await self._send(self._body(stream=True))
        for _ in range(10):  # a byte now and then, and then it is bored
            await reader.read(1)
            await asyncio.sleep(0.3)
        writer.transport.abort()

    async def sends_nonsense(self) -> None:
        bad: list[bytes] = [b"{", b"[]", b'{"model": 5}', json.dumps(self._body(n=-1)).encode()]
        answer = await self._exchange(self._request(self._chooser.choice(bad)))
        if not 400 <= _status(answer) < 500:
            raise Broken(f"nonsense was answered with {answer[:300]!r}")

    async def looks_around(self) -> None:
        for path in ("/health", "/metrics", "/v1/models"):
            answer = await self._exchange(f"GET {path} HTTP/1.1\r\n{self._head()}\r\n".encode())
            if _status(answer) != 200:
                raise Broken(f"{path} was answered with {answer[:300]!r}")

    def _is_answer(self, answer: bytes) -> bool:
        """True for a 200, False for a full queue. Anything else is not a server's right."""
        status = _status(answer)
        if status == 429 and b"retry-after:" in answer.lower():
            self.counts["refused, the queue being full"] += 1
            return False
        if status != 200:
            raise Broken(f"a sound request was answered with {answer[:500]!r}")
        return True

    def _body(self, num_words: int | None = None, **fields: Any) -> dict[str, Any]:
        # Few beginnings, so that prompts meet in the prefix cache.
        chooser, num_words = self._chooser, num_words or self._chooser.randrange(5, 80)
        words = [f"word{i % 7}" for i in range(num_words)] + [str(chooser.randrange(1000))]
        content = f"{chooser.randrange(3)} {' '.join(words)}"
        body = {"model": self._model, "messages": [{"role": "user", "content": content}]}
        max_tokens = chooser.randrange(1, self._max_tokens)
        return body | {"temperature": chooser.choice([0, 0.8]), "max_tokens": max_tokens} | fields

    def _head(self) -> str:
        return f"Host: {self._host}\r\nConnection: close\r\n"

    def _bytes(self, body: dict[str, Any]) -> bytes:
        return self._request(json.dumps(body).encode())

    def _request(self, data: bytes) -> bytes:
        return (
            f"POST {CHAT} HTTP/1.1\r\n{self._head()}Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port)

    async def _send(
        self, body: dict[str, Any]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self._connect()
        writer.write(self._bytes(body))
        await writer.drain()
        return reader, writer

    async def _post(self, body: dict[str, Any]) -> bytes:
        return await self._exchange(self._bytes(body))

    async def _exchange(self, request: bytes) -> bytes:
        """The whole answer, headers and all."""
        reader, writer = await self._connect()
        try:
            writer.write(request)
            with suppress(ConnectionError):
                return await reader.read()
            raise Broken("the connection was reset before the answer")
        finally:
            writer.close()


def _status(answer: bytes) -> int:
    words = answer.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise Broken(f"no answer at all: {answer[:100]!r}")
    return int(words[1])
