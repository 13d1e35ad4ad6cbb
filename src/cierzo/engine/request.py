"""The engine's nouns: what is asked (`GenerationRequest`) and what comes back (`TokenEvent`).

Token ids only: nothing here knows of text, JSON, keys or money.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from cierzo.engine.readout import Reading, Readout
from cierzo.errors import RequestError

FinishReason = Literal["stop", "length", "model_length", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen.

    `temperature` 0 is greedy. `top_k` 0 keeps all. `max_tokens` None runs to the
    end of the context. `stop`, one string or a sequence of them and from then on a tuple, is cut
    by the text layer, never seen here.
    `logprobs` is the number of alternatives to report per token (None: report nothing;
    0: only the chosen token's logprob). With `seed` None a fresh one is drawn.

    Repetition divides (negative logits: multiplies) the logit of every token of prompt or
    completion; then `frequency_penalty` is subtracted once per occurrence in the completion
    and `presence_penalty` once if there is any. Raises RequestError on a value out of bounds
    or of another type.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    min_tokens: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "float":
                self._require(field.name, _is_finite(value), "a finite number")
            elif field.type == "int":
                self._require(field.name, is_integer(value), "an integer")
            elif field.type == "int | None":
                is_right = value is None or is_integer(value)
                self._require(field.name, is_right, "an integer or None")
        self._set_stop(self.stop)
        self._require("temperature", self.temperature >= 0, "at least 0")
        self._require("top_p", 0 < self.top_p <= 1, "over 0 and at most 1")
        self._require("top_k", self.top_k >= 0, "at least 0")
        self._require("max_tokens", self.max_tokens is None or self.max_tokens >= 0, "at least 0")
        self._require("min_tokens", self.min_tokens >= 0, "at least 0")
        self._require("presence_penalty", abs(self.presence_penalty) <= 2, "between -2 and 2")
        self._require("frequency_penalty", abs(self.frequency_penalty) <= 2, "between -2 and 2")
        self._require("repetition_penalty", self.repetition_penalty > 0, "over 0")
        self._require("n", self.n >= 1, "at least 1")
        self._require("logprobs", (self.logprobs or 0) >= 0, "at least 0")
        self._require("prompt_logprobs", (self.prompt_logprobs or 0) >= 0, "at least 0")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens must be at most max_tokens ({self.max_tokens}); got {self.min_tokens}",
                param="min_tokens",
            )

    def _set_stop(self, stop: Any) -> None:
        strings = (stop,) if isinstance(stop, str) else stop
        is_right = isinstance(strings, Sequence) and all(isinstance(s, str) for s in strings)
        self._require("stop", is_right, "a string or a sequence of strings")
        object.__setattr__(self, "stop", tuple(strings))

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise RequestError(f"{name} must be {rule}; got {getattr(self, name)!r}", param=name)

    @property
    def has_penalties(self) -> bool:
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


def is_integer(value: object) -> TypeGuard[int]:
    """True for Python's and NumPy's integers; a bool is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    if is_integer(value):
        return abs(int(value)) <= sys.float_info.max
    return isinstance(value, (float, np.floating)) and math.isfinite(value)


def token_ids_of(values: Iterable[object], param: str) -> tuple[int, ...]:
    """The same token ids as plain ints. Raises RequestError, naming `param`, for anything else."""
    if isinstance(values, tuple) and {int}.issuperset(map(type, values)):
        return values  # as they nearly always come, and a long prompt has thousands
    token_ids = []
    for value in values if isinstance(values, Iterable) else (values,):
        if not is_integer(value):
            raise RequestError(f"{param}: token ids must be integers; got {value!r}", param=param)
        token_ids.append(int(value))
    return tuple(token_ids)


class LogitsConstraint(Protocol):
    """A grammar that says which tokens may come next. One instance per sequence."""

    def allowed_tokens(self) -> NDArray[np.uint32]:
        """Bit mask over the vocabulary, uint32 [ceil(vocab_size / 32)]; bit set = allowed."""

    def accept(self, token_id: int) -> None:
        """Advance by the token that was sampled."""

    def is_finished(self) -> bool:
        """True when only the end of the sequence may follow."""

    def fork(self) -> LogitsConstraint:
        """An independent copy in the same state (for `n` > 1)."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt and how to continue it. `params.n` > 1 makes several sequences of it.

    `stop_token_ids` end a sequence with `finish_reason` "stop" (ignored before
    `min_tokens`). `workspace` keys the prefix cache: blocks are never shared across it.
    With a `readout` the prompt is read and not continued: `params.max_tokens` must be 0, and the
    one event carries the reading.
    Raises RequestError for token ids that are not integers.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    stop_token_ids: frozenset[int] = frozenset()
    workspace: str = "default"
    constraint: LogitsConstraint | None = None
    readout: Readout | None = None

    def __post_init__(self) -> None:
        prompt = token_ids_of(self.prompt_token_ids, "prompt")
        object.__setattr__(self, "prompt_token_ids", prompt)
        stop = frozenset(token_ids_of(self.stop_token_ids, "stop"))
        object.__setattr__(self, "stop_token_ids", stop)
        if self.readout is not None and (self.params.max_tokens != 0 or self.params.n != 1):
            raise RequestError("a readout needs max_tokens 0 and n 1", param="max_tokens")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """ln p of a token in the unmodified distribution; `top`: the most likely and their ln p."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One step of one sequence: its new token, or (`token_id` None) only its end.

    `index` counts the request's sequences from 0. `num_cached_tokens`, on every event, counts
    the prompt's tokens reused from earlier requests. A stop token is reported as the finish,
    never as a token. `prompt_logprobs` (None for the first token) comes with each sequence's
    first event. `reading` is what a readout asked for. `error` holds the message when
    `finish_reason` is "error".
    """

    index: int
    token_id: int | None
    finish_reason: FinishReason | None = None
    logprob: TokenLogprob | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    num_cached_tokens: int = 0
    error: str | None = None
    reading: Reading | None = None
