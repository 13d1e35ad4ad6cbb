"""The parent's end of the template worker: starts it, asks it, kills it when it is late.

Knows processes and limits; what a template means is `template_prompt.py`'s.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from cierzo.errors import EngineError, TemplateError

MAX_START_S = 60.0
"""For a machine that is busy loading models; an idle one takes 0.1 s."""

MAX_RENDER_S = 5.0
MAX_WORKER_BYTES = 1 << 29
"""Address space, not resident memory: an idle worker maps a few tens of MB."""

MOMENT_S = 0.1
"""The longest that we wait without looking at the clock."""

MIN_OUTPUT_CHARS = 1 << 20
_WORKER = Path(__file__).with_name("template_worker.py")


class TemplateProcess:
    """Renders templates one at a time in a child that has no environment and little memory.

    Thread-safe. The child starts with this object, so that it is up when the first conversation
    comes, and ends with it.
    """

    def __init__(
        self, *, max_start_s: float = MAX_START_S, max_render_s: float = MAX_RENDER_S
    ) -> None:
        self._max_start_s = max_start_s
        self._max_render_s = max_render_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._running()

    def render(self, template: str, variables: dict[str, Any]) -> str:
        """The text of `template`. Raises TemplateError: a fault in it, too slow, too large;
        EngineError when the child cannot be started."""
        payload = json.dumps({"template": template, "variables": variables})
        request = {"max_chars": MIN_OUTPUT_CHARS + 4 * len(payload)}
        line = f"{payload[:-1]}, {json.dumps(request)[1:]}\n".encode()
        with self._lock:
            answer = json.loads(self._ask(line))
        if "error" in answer:
            raise TemplateError(
                f"The model's chat template failed: {answer['error']}. "
                "Send messages it accepts, or use a model with a sound template."
            )
        text: str = answer["text"]
        return text

    def close(self) -> None:
        """Ends the child; a later render starts another."""
        with self._lock:
            self._kill()

    def _ask(self, line: bytes) -> bytes:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        self._wait_until_ready(process.stdout.fileno())
        try:
            process.stdin.write(line)
            process.stdin.flush()
            return _read_line(process.stdout.fileno(), self._max_render_s)
        except TimeoutError:
            self._kill()
            raise TemplateError(
                f"The model's chat template ran longer than {self._max_render_s:g} s and was "
                "stopped. Use a model with a sound template."
            ) from None
        except (BrokenPipeError, EOFError):
            self._kill()
            raise TemplateError(
                "The model's chat template brought its process down (most likely by using too "
                "much memory). Use a model with a sound template."
            ) from None

    def _wait_until_ready(self, descriptor: int) -> None:
        if self._is_ready:
            return
        try:
            _read_line(descriptor, self._max_start_s)
        except (TimeoutError, EOFError) as error:
            self._kill()
            what = "ended" if isinstance(error, EOFError) else f"took over {self._max_start_s:g} s"
            raise EngineError(
                f"The process that renders chat templates {what} while starting. "
                "The machine may be overloaded or out of memory; try again later."
            ) from None
        self._is_ready = True

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_WORKER), str(MAX_WORKER_BYTES)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,  # a terminal's Ctrl-C is for us, not for it
            )
            self._is_ready = False
            weakref.finalize(self, _end, self._process)
        return self._process

    def _kill(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _read_line(descriptor: int, allowed_s: float) -> bytes:
    """One line from a pipe. Raises TimeoutError after `allowed_s`, EOFError at the end.

    A machine that sleeps, or stops us, stops the child as well: of such a pause a moment counts.
    """
    received = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not received.endswith(b"\n"):
            began_s = time.monotonic()
            is_ready = selector.select(min(allowed_s, MOMENT_S))
            allowed_s -= min(time.monotonic() - began_s, 2 * MOMENT_S)
            if not is_ready:
                if allowed_s <= 0:
                    raise TimeoutError
                continue
            data = os.read(descriptor, 1 << 16)
            if not data:
                raise EOFError
            received += data
    return bytes(received)
