"""An engine that says what a test tells it to, and a text model of plain bytes.

For what a real model does not do on demand: faults, slow steps, exact answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np

from cierzo.engine.core import EngineStats
from cierzo.engine.readout import Reading
from cierzo.engine.request import GenerationRequest, TokenEvent, TokenLogprob
from cierzo.server.readings import OWN_WORKSPACE
from cierzo.server.schemas.chat import ChatCompletionRequest
from cierzo.server.text_model import PreparedPrompt
from cierzo.tokenizer.messages import parse_messages

DIM = 16
BOS, EOS, TOOL_CALLS, THINK, END_THINK, PREFIX, SUFFIX = range(256, 263)


class ByteTokenizer:
    """One token per byte, and some control tokens."""

    vocab_size = 263
    version = "bytes"
    bos_id: int | None = BOS
    adds_bos = True
    added_eos_id: int | None = None
    eos_ids = frozenset({EOS})
    control_tokens: Mapping[str, int] = {
        "<s>": BOS,
        "</s>": EOS,
        "[TOOL_CALLS]": TOOL_CALLS,
        "[THINK]": THINK,
        "[/THINK]": END_THINK,
        "[PREFIX]": PREFIX,
        "[SUFFIX]": SUFFIX,
    }
    adds_space_prefix = False
    chat_template: str | None = None
    template_variables: Mapping[str, str] = {"bos_token": "<s>", "eos_token": "</s>"}

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        return [*([BOS] if add_bos else []), *text.encode()]

    def encode_pieces(self, pieces: Sequence[int | str]) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            ids += [piece] if isinstance(piece, int) else self.encode(piece)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, token_ids)).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id >= 256 else bytes([token_id])

    def is_control(self, token_id: int) -> bool:
        return token_id >= 256


@dataclass(frozen=True)
class Call:
    id: str
    name: str
    arguments: str


class LineParser:
    """After [TOOL_CALLS] every line `name{json}` is a call."""

    def __init__(self) -> None:
        self._line: str | None = None
        self._num_calls = 0

    def add(self, token_id: int, text: str) -> tuple[str, list[Call]]:
        if token_id == TOOL_CALLS:
            self._line = ""
        if self._line is None:
            return text, []
        self._line += text
        return "", self._take() if text == "\n" else []

    def flush(self) -> tuple[str, list[Call]]:
        return "", self._take()

    def _take(self) -> list[Call]:
        name, brace, rest = (self._line or "").strip().partition("{")
        self._line = "" if self._line is not None else None
        if not name:
            return []
        self._num_calls += 1
        return [Call(f"call{self._num_calls:05}", name, brace + rest)]


class ByteTextModel:
    """The messages' texts, one after another, are the prompt."""

    def __init__(self) -> None:
        self.tokenizer = ByteTokenizer()

    def prompt(self, request: ChatCompletionRequest) -> PreparedPrompt:
        messages = parse_messages([m.model_dump(exclude_none=True) for m in request.messages])
        text = "".join(message.text for message in messages)
        return PreparedPrompt(
            token_ids=(BOS, *text.encode()),
            stop_token_ids=frozenset({EOS}),
            constraint=None,
            may_call_tools=bool(request.tools) and request.tool_choice != "none",
        )

    def tool_call_parser(self) -> LineParser:
        return LineParser()

    def close(self) -> None: ...


Script = Sequence[int | str | float | Event | Exception | TokenEvent | Reading]
"""Texts (a token per byte), single token ids, pauses in seconds (float) or until an event is set,
an error to raise."""


def reading_of(request: GenerationRequest) -> Reading:
    """What the engine reads off a prompt unless its script has a reading: noise that depends on
    every token, and logits that say how often the prompt's bytes have each asked token."""
    assert request.readout is not None
    prompt = np.array(request.prompt_token_ids, np.uint32)
    noise = np.random.default_rng(prompt).standard_normal(DIM, dtype=np.float32)
    counts = [request.prompt_token_ids.count(token) for token in request.readout.token_ids]
    pooled = request.readout.pooling is not None
    return Reading(noise if pooled else None, np.array(counts, np.float32))


@dataclass
class ScriptedEngine:
    """Answers every request with what `script` returns for it, then the end of the sequence."""

    script: Callable[[GenerationRequest], Script] = lambda request: ["Hello there"]
    requests: list[GenerationRequest] = field(default_factory=list)
    streams: list[ScriptedStream] = field(default_factory=list)
    healthy: bool = True
    is_closed: bool = False

    def submit(self, request: GenerationRequest) -> ScriptedStream:
        script = self.script(request)
        if request.workspace == OWN_WORKSPACE:  # the server remembers: alike for every test
            assert request.readout is not None
            script = [Reading(None, np.zeros(len(request.readout.token_ids), np.float32))]
        if script and isinstance(script[0], Exception):
            raise script[0]
        self.requests.append(request)
        stream = ScriptedStream(self, request, script)
        self.streams.append(stream)
        return stream

    def is_healthy(self) -> bool:
        return self.healthy

    def stats(self) -> EngineStats:
        return EngineStats(
            num_running=sum(not stream.is_closed for stream in self.streams),
            num_preempted=3,
            num_steps=sum(stream.num_events for stream in self.streams),
            expert_tokens=[[5, 1, 0], [2, 2, 2]],
        )

    def reset(self) -> None:
        """As new, for the next test."""
        vars(self).update(vars(ScriptedEngine()))

    def close(self) -> None:
        self.is_closed = True


class ScriptedStream:
    def __init__(self, engine: ScriptedEngine, request: GenerationRequest, script: Script) -> None:
        self._engine = engine
        self._request = request
        self._script = script
        self._events = aiter(self)
        self.is_closed = False
        self.closed: set[int] = set()
        self.num_events = 0

    def close(self, index: int | None = None) -> None:
        self.is_closed = self.is_closed or index is None
        self.closed.update(range(self._request.params.n) if index is None else [index])

    async def take(self) -> list[TokenEvent]:
        event = await anext(self._events, None)
        return [] if event is None else [event]

    @property
    def _script_reads(self) -> bool:
        return any(isinstance(step, Reading | TokenEvent) for step in self._script)

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        params = self._request.params
        num_tokens = 0
        if self._request.readout is not None and not self._script_reads:
            pauses = [step for step in self._script if isinstance(step, float | Event)]
            self._script = [*pauses, reading_of(self._request)]
        for step in self._script:
            if isinstance(step, Reading):
                self.num_events += 1
                await asyncio.sleep(0)
                yield TokenEvent(0, None, "length", num_cached_tokens=4, reading=step)
                return
            if isinstance(step, float | Event):
                if await self._outlasts_engine(step):
                    for index in range(params.n):
                        yield TokenEvent(index, None, "error", error="the engine was stopped")
                    return
            if isinstance(step, Exception):
                raise step
            if isinstance(step, TokenEvent):
                yield step
            if not isinstance(step, int | str):
                continue
            for token_id in step.encode() if isinstance(step, str) else [step]:
                num_tokens += 1
                for index in sorted(set(range(params.n)) - self.closed):
                    self.num_events += 1
                    yield self._event(index, token_id, num_tokens)
                await asyncio.sleep(0)
                if num_tokens == params.max_tokens:
                    return
        for index in range(params.n):
            yield TokenEvent(index, None, finish_reason="stop", num_cached_tokens=4)

    def _event(self, index: int, token_id: int, num_tokens: int) -> TokenEvent:
        params = self._request.params
        logprob = prompt_logprobs = None
        if params.logprobs is not None:
            top = tuple((token_id + i, -0.5 - i) for i in range(params.logprobs))
            logprob = TokenLogprob(token_id, -0.5, top)
        if params.prompt_logprobs is not None and num_tokens == 1:
            rest = self._request.prompt_token_ids[1:]
            prompt_logprobs = (None, *(TokenLogprob(token, -1.0) for token in rest))
        return TokenEvent(
            index,
            token_id,
            finish_reason="length" if num_tokens == params.max_tokens else None,
            logprob=logprob,
            prompt_logprobs=prompt_logprobs,
            num_cached_tokens=4,
        )

    async def _outlasts_engine(self, pause: float | Event) -> bool:
        """Wait; True when the engine closed meanwhile."""
        waited_s = 0.0
        while not self._engine.is_closed:
            if pause.is_set() if isinstance(pause, Event) else waited_s >= pause:
                return False
            await asyncio.sleep(0.005)
            waited_s += 0.005
        return True
