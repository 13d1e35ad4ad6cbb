"""What the server needs of an engine and of a model's text side, as it needs it.

Protocols, so that the server depends on neither module's insides and tests can script
the rare cases (faults, slow steps) that a real model does not produce on demand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cierzo.engine.request import GenerationRequest, LogitsConstraint, TokenEvent
from cierzo.server.schemas.chat import ChatCompletionRequest
from cierzo.tokenizer.tokenizer import Tokenizer


class TokenStream(Protocol):
    """The events of one request, until every sequence has finished."""

    def __aiter__(self) -> AsyncIterator[TokenEvent]: ...

    async def take(self) -> Sequence[TokenEvent]:
        """All events that are there, after waiting for one; none at the end."""

    def close(self, index: int | None = None) -> None:
        """Stop the request, or its sequence `index`: no cost after the engine's current step."""


class EngineStats(Protocol):
    """Sequences now running and waiting, the share of KV blocks in use; totals since the start,
    `expert_tokens` by layer and expert."""

    num_running: int
    num_waiting: int
    kv_cache_usage: float
    num_preempted: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_steps: int
    num_computed_tokens: int
    total_step_s: float
    expert_tokens: list[list[int]]


class Engine(Protocol):
    """Token ids in, token events out; computes on a thread of its own."""

    def submit(self, request: GenerationRequest) -> TokenStream: ...

    def is_healthy(self) -> bool:
        """True while the engine's thread lives and has not been told to stop."""

    def stats(self) -> EngineStats: ...

    def close(self) -> None:
        """Stop; what still runs ends with an error event. Waits for the engine's thread."""


class WrittenCall(Protocol):
    """A call that the model wrote; `arguments` is a JSON object as text."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def arguments(self) -> str: ...


class ToolCallParser(Protocol):
    """Separates one answer's text from its tool calls, token by token."""

    def add(self, token_id: int, text: str) -> tuple[str, Sequence[WrittenCall]]: ...

    def flush(self) -> tuple[str, Sequence[WrittenCall]]: ...


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A conversation turned into tokens, and what its answer must and may be."""

    token_ids: tuple[int, ...]
    stop_token_ids: frozenset[int]
    constraint: LogitsConstraint | None
    may_call_tools: bool


class TextModel(Protocol):
    """The text side of one model."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    def prompt(self, request: ChatCompletionRequest) -> PreparedPrompt:
        """Slow (template, grammar): called off the event loop. Raises PromptError, RequestError."""

    def tool_call_parser(self) -> ToolCallParser: ...

    def close(self) -> None: ...
