"""Token events → what a caller reads: text, tool calls, logprobs, finish reasons, usage.

The one path for whole and streamed answers. Knows nothing of HTTP or JSON bytes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cierzo.engine.request import GenerationRequest, TokenEvent, TokenLogprob
from cierzo.errors import EngineError
from cierzo.server.text_model import Engine, TokenStream, ToolCallParser, WrittenCall
from cierzo.tokenizer.detokenizer import Detokenizer
from cierzo.tokenizer.stop_strings import StopMatcher
from cierzo.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cierzo.server.metering import Metered

BEGIN_THINK, END_THINK = "[THINK]", "[/THINK]"

FinishReason = Literal["stop", "length", "model_length", "tool_calls", "error"]


@dataclass(slots=True)
class Usage:
    """Token counts and times of one request. Times are `time.monotonic()` seconds.

    Where the counts are an upstream's, they are not known (`is_known`) before it says them.
    """

    num_prompt_tokens: int
    num_completion_tokens: int = 0
    num_cached_tokens: int = 0
    started_s: float = field(default_factory=time.monotonic)
    first_token_s: float | None = None
    last_token_s: float | None = None
    is_known: bool = True

    def count(self, event: TokenEvent) -> None:
        self.num_cached_tokens = event.num_cached_tokens
        if event.token_id is not None:
            self.num_completion_tokens += 1
            self.note_time()

    def note_time(self) -> None:
        """Something of the answer has come."""
        self.last_token_s = time.monotonic()
        if self.first_token_s is None:
            self.first_token_s = self.last_token_s

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_completion_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """How the tokens of a request's answers are read.

    `prefix` is text that every answer starts with. An answer that `goes_on` continues the
    prompt's own text, so that its first space is no decoration. `make_parser` is None when no
    tool may be called. The top logprobs are the alternatives beside each token, of the answer
    and of the prompt.
    """

    tokenizer: Tokenizer
    prefix: str = ""
    goes_on: bool = False
    stop: tuple[str, ...] = ()
    make_parser: Callable[[], ToolCallParser] | None = None
    parallel_tool_calls: bool = True
    wants_logprobs: bool = False
    wants_top_logprobs: bool = False
    wants_top_prompt_logprobs: bool = False


@dataclass(frozen=True, slots=True)
class PreparedCompletion:
    """`request` goes to the engine, `plan` reads what comes back."""

    request: GenerationRequest
    plan: AnswerPlan


class Completion(Protocol):
    """The `n` answers to one request, still to be computed. `usage` counts along."""

    n: int
    usage: Usage

    def deltas(self, metered: Metered) -> AsyncGenerator[list[ChoiceDelta], None]:
        """What comes of all answers, together what came together; closing it stops them. To be read
        once. Raises EngineError, and RequestError where it is an upstream that refuses."""


@dataclass(slots=True)
class ChoiceDelta:
    """What one event adds to one choice. `finish_reason` is set on the choice's last.

    `thinking` stands before `text`; `ends_thinking` when no more of it follows.
    """

    index: int
    text: str = ""
    thinking: str = ""
    ends_thinking: bool = False
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] | None = None
    prompt_logprobs: list[dict[str, Any]] | None = None
    finish_reason: FinishReason | None = None
    error: EngineError | None = None

    def may_grow_by(self, later: ChoiceDelta) -> bool:
        """False where the sum would hide that thinking began again."""
        return not (later.thinking and (self.text or self.ends_thinking))

    def add(self, later: ChoiceDelta) -> None:
        """Make this delta the sum of itself and a later one of the same choice."""
        self.text += later.text
        self.thinking += later.thinking
        self.ends_thinking = self.ends_thinking or later.ends_thinking
        self.tool_calls += later.tool_calls
        if later.logprobs is not None:
            self.logprobs = [*(self.logprobs or ()), *later.logprobs]
        if later.prompt_logprobs is not None:
            self.prompt_logprobs = later.prompt_logprobs
        self.finish_reason, self.error = later.finish_reason, later.error

    @property
    def is_empty(self) -> bool:
        return not (
            self.text
            or self.thinking
            or self.tool_calls
            or self.logprobs
            or self.prompt_logprobs
            or self.finish_reason
        )


class ChoiceReader:
    """Reads one sequence: detokenizes, sets thinking apart, takes tool calls out, cuts at stop
    strings. Thinking is what stands between the vocabulary's two control tokens for it."""

    def __init__(self, index: int, plan: AnswerPlan) -> None:
        self.index = index
        self.is_finished = False
        self._plan = plan
        self._detokenizer = Detokenizer(
            plan.tokenizer, keep_first_space=plan.goes_on or bool(plan.prefix)
        )
        self._stop = StopMatcher(plan.stop) if plan.stop else None
        self._parser = plan.make_parser() if plan.make_parser else None
        self._num_tool_calls = 0
        self._pending_prefix = plan.prefix
        self._is_thinking = False
        self._has_thought = False  # and the caller has not been told that it ended
        controls = plan.tokenizer.control_tokens
        self._think_ids = controls.get(BEGIN_THINK), controls.get(END_THINK)

    def read(self, event: TokenEvent) -> ChoiceDelta:
        """What `event` adds. After a delta with `finish_reason` there are no more."""
        delta = ChoiceDelta(self.index, text=self._pending_prefix)
        self._pending_prefix = ""
        if event.prompt_logprobs is not None:
            with_top = self._plan.wants_top_prompt_logprobs
            delta.prompt_logprobs = [
                self._logprob_json(logprob, with_top)
                for logprob in event.prompt_logprobs
                if logprob
            ]
        if event.token_id is not None:
            if event.logprob is not None and self._plan.wants_logprobs:
                with_top = self._plan.wants_top_logprobs
                delta.logprobs = [self._logprob_json(event.logprob, with_top)]
            self._read_token(delta, event.token_id)
        if event.finish_reason is not None and not self.is_finished:
            self._finish(delta, event)
        if self._has_thought and (delta.text or delta.tool_calls or delta.finish_reason):
            self._has_thought, delta.ends_thinking = False, not self._is_thinking
        return delta

    def _read_token(self, delta: ChoiceDelta, token_id: int) -> None:
        if token_id in self._think_ids:
            self._is_thinking = token_id == self._think_ids[0]
            self._has_thought = True
        text = self._detokenizer.add(token_id)
        if self._is_thinking:
            delta.thinking += text
            return
        if self._parser is not None:
            text, calls = self._parser.add(token_id, text)
            self._add_tool_calls(delta, calls)
        self._add_text(delta, text)

    def _add_text(self, delta: ChoiceDelta, text: str) -> None:
        if self._stop is not None and text:
            text, stopped = self._stop.add(text)
            if stopped:
                self._end(delta, "stop")
        delta.text += text

    def _add_tool_calls(self, delta: ChoiceDelta, calls: Sequence[WrittenCall]) -> None:
        for call in calls:
            if self._num_tool_calls and not self._plan.parallel_tool_calls:
                break
            delta.tool_calls.append(
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                    "index": self._num_tool_calls,
                }
            )
            self._num_tool_calls += 1
        if self._num_tool_calls and not self._plan.parallel_tool_calls:
            self._end(delta, "tool_calls")

    def _finish(self, delta: ChoiceDelta, event: TokenEvent) -> None:
        assert event.finish_reason is not None
        text = self._detokenizer.flush()
        if self._parser is not None:
            held, calls = self._parser.flush()
            text = held + text
            self._add_tool_calls(delta, calls)
        self._add_text(delta, text)
        if self.is_finished:  # a stop string ended in what was still held back
            return
        if self._stop is not None:
            delta.text += self._stop.flush()
        delta.error = None if event.error is None else EngineError(event.error)
        reason: FinishReason = event.finish_reason
        self._end(delta, "tool_calls" if reason == "stop" and self._num_tool_calls else reason)

    def _end(self, delta: ChoiceDelta, reason: FinishReason) -> None:
        self.is_finished = True
        delta.finish_reason = reason

    def _logprob_json(self, logprob: TokenLogprob, with_top: bool) -> dict[str, Any]:
        entry = self._token_json(logprob.token_id, logprob.logprob)
        if with_top:
            entry["top_logprobs"] = [self._token_json(*alternative) for alternative in logprob.top]
        return entry

    def _token_json(self, token_id: int, logprob: float) -> dict[str, Any]:
        data = self._plan.tokenizer.token_bytes(token_id)
        return {
            "token": data.decode("utf-8", errors="replace"),
            "logprob": logprob,
            "bytes": list(data),
            "token_id": token_id,
        }


class TokenCompletion:
    """A `Completion` whose tokens an engine computes and `prepared.plan` reads."""

    def __init__(self, engine: Engine, prepared: PreparedCompletion) -> None:
        self.n = prepared.request.params.n
        self.usage = Usage(len(prepared.request.prompt_token_ids))
        self._engine = engine
        self._request = prepared.request
        self._choices = [ChoiceReader(index, prepared.plan) for index in range(self.n)]

    async def deltas(self, metered: Metered) -> AsyncGenerator[list[ChoiceDelta], None]:
        """The engine is left alone when every choice has ended, or the caller stops reading."""
        stream = metered.submit(self._engine, self._request)
        try:
            while events := await stream.take():
                if deltas := self._read(events, stream):
                    yield deltas
                if all(choice.is_finished for choice in self._choices):
                    return
        finally:
            stream.close()

    def _read(self, events: Sequence[TokenEvent], stream: TokenStream) -> list[ChoiceDelta]:
        """What tokens that came together add, those of one choice in one delta."""
        deltas: list[ChoiceDelta] = []
        last_of: dict[int, ChoiceDelta] = {}
        for event in events:
            choice = self._choices[event.index]
            if choice.is_finished:
                continue  # tokens computed after a stop string was found
            self.usage.count(event)
            delta = choice.read(event)
            last = last_of.get(choice.index)
            if last is not None and last.may_grow_by(delta):
                last.add(delta)
            elif not delta.is_empty:
                deltas.append(delta)
                last_of[choice.index] = delta
            if choice.is_finished:  # by a stop string: for us, not yet for the engine
                stream.close(choice.index)
        return deltas


async def with_ends(
    arrivals: AsyncGenerator[list[ChoiceDelta], None], n: int
) -> AsyncGenerator[list[ChoiceDelta], None]:
    """The same deltas; what raises EngineError after the first ends its choices with "error"."""
    running: set[int] | None = None
    async with aclosing(arrivals):
        try:
            async for deltas in arrivals:
                running = set(range(n)) if running is None else running
                running -= {delta.index for delta in deltas if delta.finish_reason is not None}
                yield deltas
        except EngineError as error:
            if running is None:
                raise
            if running:
                yield [ChoiceDelta(i, finish_reason="error", error=error) for i in sorted(running)]
