"""The engine's nouns: what is asked (`GenerationRequest`) and what comes back (`TokenEvent`).

Token ids only: nothing here knows of text, JSON, keys or money.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cierzo.errors import RequestError

FinishReason = Literal["stop", "length", "model_length", "error"]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen.

    `temperature` 0 is greedy. `top_k` 0 keeps all. `max_tokens` None runs to the
    end of the context. `stop` strings are cut by the text layer, never seen here.
    `logprobs` is the number of alternatives to report per token (None: report nothing;
    0: only the chosen token's logprob). With `seed` None a fresh one is drawn.

    Repetition divides (negative logits: multiplies) the logit of every token of prompt or
    completion; then `frequency_penalty` is subtracted once per occurrence in the completion
    and `presence_penalty` once if there is any. Raises RequestError on a value out of bounds.
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
        self._require("temperature", self.temperature >= 0, "at least 0")
        self._require("top_p", 0 < self.top_p <= 1, "over 0 and at most 1")
        self._require("top_k", self.top_k >= 0, "at least 0")
        self._require("max_tokens", self.max_tokens is None or self.max_tokens >= 0, "at least 0")
        self._require("min_tokens", self.min_tokens >= 0, "at least 0")
        self._require("presence_penalty", abs(self.presence_penalty) <= 2, "between -2 and 2")
        self._require("frequency_penalty", abs(self.frequency_penalty) <= 2, "between -2 and 2")
        self._require("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "over 0")
        self._require("n", self.n >= 1, "at least 1")
        self._require("logprobs", (self.logprobs or 0) >= 0, "at least 0")
        self._require("prompt_logprobs", (self.prompt_logprobs or 0) >= 0, "at least 0")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens must be at most max_tokens ({self.max_tokens}); got {self.min_tokens}",
                param="min_tokens",
            )

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:  # comparisons with NaN are false, so NaN lands here too
            raise RequestError(f"{name} must be {rule}; got {getattr(self, name)}", param=name)

    @property
    def has_penalties(self) -> bool:
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


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
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    stop_token_ids: frozenset[int] = frozenset()
    workspace: str = "default"
    constraint: LogitsConstraint | None = None


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
    first event. `error` holds the message when `finish_reason` is "error".
    """

    index: int
    token_id: int | None
    finish_reason: FinishReason | None = None
    logprob: TokenLogprob | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    num_cached_tokens: int = 0
    error: str | None = None
