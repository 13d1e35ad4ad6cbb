"""An upstream's stream of chunks → what our answers are made of.

Reads what Mistral's API and OpenAI-kind servers send, and refuses what is neither. An answer's end
is held back until the stream's, since the counts may come after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import orjson
from pydantic import BaseModel, Field, ValidationError

from cierzo.errors import UpstreamError
from cierzo.server.completion import ChoiceDelta, FinishReason, Usage
from cierzo.server.schemas.chat import Logprobs
from cierzo.tokenizer.tool_calls import regular_call_id

KNOWN_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)


Count = Annotated[int, Field(ge=0, le=10**9)]


class PromptDetails(BaseModel):
    cached_tokens: Count | None = None


class UpstreamUsage(BaseModel):
    """What a server says that an answer used."""

    prompt_tokens: Count
    completion_tokens: Count | None = None
    prompt_tokens_details: PromptDetails | None = None

    def write_to(self, usage: Usage, *, before: int = 0) -> None:
        """Set `usage`; `before` are completion tokens that are not counted in this."""
        details = self.prompt_tokens_details
        usage.num_prompt_tokens = self.prompt_tokens
        usage.num_completion_tokens = before + (self.completion_tokens or 0)
        usage.num_cached_tokens = min(self.prompt_tokens, (details and details.cached_tokens) or 0)
        usage.is_known = True


class FunctionPart(BaseModel):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class ToolCallPart(BaseModel):
    """A call, or the next piece of one."""

    index: int | None = None
    id: str | None = None
    function: FunctionPart


class ChunkDelta(BaseModel):
    """`reasoning_content` and `reasoning` are what OpenAI-kind servers call thinking."""

    content: str | list[dict[str, Any]] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallPart] | None = None


class ChunkChoice(BaseModel):
    index: int = 0
    delta: ChunkDelta
    finish_reason: str | None = None
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None


class Chunk(BaseModel):
    choices: list[ChunkChoice] = []
    usage: UpstreamUsage | None = None


@dataclass(slots=True)
class _Call:
    """A tool call that is coming in."""

    index: int | None
    id: str | None
    name: str
    arguments: str = ""

    def is_followed_by(self, index: int | None, call_id: str | None, name: str | None) -> bool:
        """True where such a piece begins another call. Pieces of one share its index and id;
        whole calls come with a name each, some of them without an id."""
        if index is not None and index != self.index:
            return True
        return bool(name) if call_id is None else call_id != self.id


class ChunkReader:
    """Reads one answer's chunks. Raises UpstreamError for what is none; `usage` is set on the way.

    `prefix` is text that every choice starts with, where the upstream leaves it out.
    """

    def __init__(self, name: str, n: int, usage: Usage, prefix: str = "") -> None:
        self._name = name
        self._usage = usage
        self._choices = [_ChoiceReader(index, prefix) for index in range(n)]
        self._num_told = 0  # completion tokens that counts of their own have told

    def read(self, value: dict[str, Any]) -> Iterator[ChoiceDelta]:
        """What a chunk adds; no ends."""
        if value.get("error"):
            raise UpstreamError(f"the upstream {self._name} failed in the middle of its answer")
        try:
            chunk = Chunk.model_validate(value)
        except ValidationError as error:
            place = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
            raise self._nonsense(f"a chunk that is none (at {place})") from None
        if chunk.usage is not None:
            self._count(chunk.usage, is_alone=not chunk.choices)
        for choice in chunk.choices:
            if not 0 <= choice.index < len(self._choices):
                raise self._nonsense(f"a choice {choice.index} that was not asked for")
            try:
                delta = self._choices[choice.index].read(choice)
            except ValueError as error:
                raise self._nonsense(str(error)) from None
            if not delta.is_empty:
                self._usage.note_time()
                yield delta

    def _count(self, told: UpstreamUsage, is_alone: bool) -> None:
        """Counts beside choices are sums so far. Of several that stand alone each is of one choice:
        so llama.cpp's server tells them."""
        told.write_to(self._usage, before=self._num_told if is_alone else 0)
        if is_alone and len(self._choices) > 1:
            self._num_told += told.completion_tokens or 0

    def finish(self) -> Iterator[ChoiceDelta]:
        """The ends of all choices. Raises UpstreamError where one has not ended."""
        for choice in self._choices:
            if choice.finish_reason is None:
                raise UpstreamError(f"the upstream {self._name} ended before its answer did")
        for choice in self._choices:
            yield choice.end()

    def _nonsense(self, what: str) -> UpstreamError:
        return UpstreamError(f"the upstream {self._name} sent {what}")


class _ChoiceReader:
    def __init__(self, index: int, prefix: str) -> None:
        self.finish_reason: str | None = None
        self._index = index
        self._pending_prefix = prefix
        self._is_thinking = False  # in a stream whose thinking is a field of its own
        self._call: _Call | None = None
        self._num_calls = 0

    def read(self, choice: ChunkChoice) -> ChoiceDelta:
        delta = ChoiceDelta(self._index)
        part = choice.delta
        if thinking := part.reasoning_content or part.reasoning:
            delta.thinking, self._is_thinking = thinking, True
        if isinstance(part.content, list):
            self._add_chunks(delta, part.content)
        elif part.content:
            delta.text = part.content
        if delta.text:
            delta.text = self._pending_prefix + delta.text
            self._pending_prefix = ""
        self._add_calls(delta, part.tool_calls or ())
        if choice.finish_reason is not None:
            self.finish_reason = choice.finish_reason
            self._end_call(delta)
        if self._is_thinking and (delta.text or delta.tool_calls or choice.finish_reason):
            self._is_thinking, delta.ends_thinking = False, True
        for field in ("logprobs", "prompt_logprobs"):
            entries: Logprobs | None = getattr(choice, field)
            if entries is not None:
                dumped = entries.model_dump(exclude_none=True)["content"]
                setattr(delta, field, dumped)
        return delta

    def end(self) -> ChoiceDelta:
        """What stands after everything else."""
        assert self.finish_reason is not None
        reason = next((known for known in KNOWN_REASONS if known == self.finish_reason), None)
        if reason is None or reason == "error":
            why = f"the upstream ended its answer with {self.finish_reason[:50]!r}"
            return ChoiceDelta(self._index, finish_reason="error", error=UpstreamError(why))
        if reason == "stop" and self._num_calls:
            reason = "tool_calls"
        return ChoiceDelta(self._index, text=self._pending_prefix, finish_reason=reason)

    def _add_chunks(self, delta: ChoiceDelta, chunks: Iterable[dict[str, Any]]) -> None:
        """Mistral's list form. Raises ValueError for a chunk that we have no place for."""
        for chunk in chunks:
            kind = chunk.get("type")
            if kind == "text" and isinstance(chunk.get("text"), str):
                delta.text += chunk["text"]
            elif kind == "thinking" and isinstance(chunk.get("thinking"), list):
                texts = [part.get("text") for part in chunk["thinking"] if isinstance(part, dict)]
                delta.thinking += "".join(text for text in texts if isinstance(text, str))
                delta.ends_thinking = delta.ends_thinking or bool(chunk.get("closed", True))
            else:
                raise ValueError(f"a content chunk of type {str(kind)[:50]!r}")

    def _add_calls(self, delta: ChoiceDelta, parts: Iterable[ToolCallPart]) -> None:
        """Clients need a call in one piece, so a call waits for its end: the next one, or the
        answer's."""
        for part in parts:
            function, call_id = part.function, part.id if part.id != "null" else None
            if self._call is None or self._call.is_followed_by(part.index, call_id, function.name):
                self._end_call(delta)
                if not function.name:
                    raise ValueError("a tool call without a name")
                self._call = _Call(part.index, call_id, function.name)
            self._call.arguments += _json_text(function.arguments)

    def _end_call(self, delta: ChoiceDelta) -> None:
        if self._call is None:
            return
        call, self._call = self._call, None
        delta.tool_calls.append(
            {
                "id": regular_call_id(call.id or ""),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments or "{}"},
                "index": self._num_calls,
            }
        )
        self._num_calls += 1


def _json_text(arguments: str | dict[str, Any] | None) -> str:
    if isinstance(arguments, dict):
        return orjson.dumps(arguments).decode()
    return arguments or ""
