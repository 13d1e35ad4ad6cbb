"""A server that answers each request with the bytes, pauses and ends that a test tells it to."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Step = bytes | float | Literal["reset"]
"""Bytes to send, seconds to wait, or to break the connection off at once."""

Answer = Sequence[Step] | Callable[[Any], Sequence[Step]]
"""The steps, or what makes them of the request's body."""


@dataclass
class Hostile:
    """Each request gets the next of `answers`, the last one again and again."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    """Head and body of each."""

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.requests]


def head(status: int = 200, kind: str = "text/event-stream", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def refusal(status: int, body: Any = None, **headers: str) -> list[Step]:
    return [head(status, "application/json", **headers), json.dumps(body or {}).encode()]


def event(value: Any) -> bytes:
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()


def chunk(content: str | None = None, finish_reason: str | None = None, **more: Any) -> bytes:
    """An event with one choice."""
    delta = {} if content is None else {"content": content}
    return event(
        {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **more}
    )


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
DONE = event("[DONE]")
GOOD: list[Step] = [head(), chunk("Hello"), chunk(None, "stop", usage=USAGE), DONE]


@contextmanager
def hostile_server(*answers: Answer) -> Iterator[Hostile]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = Hostile(f"http://127.0.0.1:{listener.getsockname()[1]}", list(answers))
        stop = threading.Event()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_answer, args=(connection, host, stop), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield host
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)


def _answer(connection: socket.socket, host: Hostile, stop: threading.Event) -> None:
    with connection:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        top, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (
                int(line[15:])
                for line in top.lower().split(b"\r\n")
                if line[:15] == b"content-length:"
            ),
            0,
        )
        while len(body) < length:
            body += connection.recv(65536)
        host.requests.append((top.decode(), body))
        answer = host.answers[min(len(host.requests), len(host.answers)) - 1]
        for step in answer(json.loads(body)) if callable(answer) else answer:
            if step == "reset":
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                return
            if isinstance(step, float):
                stop.wait(step)
            else:
                try:
                    connection.sendall(step)
                except OSError:
                    return
                time.sleep(0.01)  # a packet of its own
