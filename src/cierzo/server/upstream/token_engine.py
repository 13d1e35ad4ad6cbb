"""An engine that is a vLLM server: token ids go out, token ids come back.

Prompts are rendered and tokenized here and answers read here, as for models of this machine, so
fill-in-the-middle, tool formats, grammars and white space are the same.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ValidationError

from cierzo.engine.core import EngineStats
from cierzo.engine.readout import Reading
from cierzo.engine.request import FinishReason, GenerationRequest, TokenEvent, TokenLogprob
from cierzo.errors import ContextOverflowError, UnsupportedRequestError, UpstreamError
from cierzo.server.upstream.chunks import UpstreamUsage
from cierzo.server.upstream.client import Exchange, UpstreamClient
from cierzo.server.upstream.fields import own_cache_key
from cierzo.tokenizer.grammar import Constraint
from cierzo.tokenizer.tool_grammar import compact_json

COMPLETIONS_PATH = "/v1/completions"

_TOKEN = re.compile(r"token_id:(\d+)")


class ChunkLogprobs(BaseModel):
    """Per token; tokens are spelled `token_id:5`."""

    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(BaseModel):
    index: int
    token_ids: list[int] | None = None
    finish_reason: str | None = None
    logprobs: ChunkLogprobs | None = None


class CompletionChunk(BaseModel):
    choices: list[CompletionChoice] = []
    usage: UpstreamUsage | None = None


class TokenEngine:
    """An `Engine` of the model that the upstream calls `model`."""

    def __init__(self, client: UpstreamClient, model: str, max_context_length: int) -> None:
        self._client = client
        self._model = model
        self._max_context_length = max_context_length

    def submit(self, request: GenerationRequest) -> UpstreamTokens:
        """Called on the client's event loop. Raises RequestError, EngineStoppedError."""
        fields = self._fields(request)
        return UpstreamTokens(self._client, fields, request)

    def is_healthy(self) -> bool:
        return self._client.is_running

    def stats(self) -> EngineStats:
        """Zeros: the steps are the upstream's own."""
        return EngineStats()

    def close(self) -> None:
        """Nothing: the client's owner stops it, on its event loop."""

    def _fields(self, request: GenerationRequest) -> dict[str, Any]:
        params = request.params
        if params.prompt_logprobs is not None:
            raise UnsupportedRequestError(
                f"{self._model} lives on an upstream that streams no logprobs of the prompt; leave "
                "prompt_logprobs out",
                param="prompt_logprobs",
            )
        room = self._max_context_length - len(request.prompt_token_ids)
        if room < max(1, params.max_tokens or 0):
            raise ContextOverflowError(
                f"the prompt's {len(request.prompt_token_ids)} tokens + max_tokens "
                f"{params.max_tokens or 1} are over the context of {self._max_context_length}; "
                "shorten the prompt or lower max_tokens",
                param="max_tokens",
            )
        fields: dict[str, Any] = {
            "model": self._model,
            "prompt": list(request.prompt_token_ids),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "cache_salt": own_cache_key(request.workspace),
            "n": params.n,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "max_tokens": room if params.max_tokens is None else max(1, params.max_tokens),
            "min_tokens": params.min_tokens,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "repetition_penalty": params.repetition_penalty,
            "stop_token_ids": sorted(request.stop_token_ids),
        }
        if params.seed is not None:
            fields["seed"] = params.seed
        if params.logprobs is not None:
            fields |= {"logprobs": params.logprobs, "return_tokens_as_token_ids": True}
        if request.constraint is not None:
            fields["structured_outputs"] = {"grammar": _grammar(request)}
        if request.readout is not None:
            fields |= self._readout_fields(request)
        return fields

    def _readout_fields(self, request: GenerationRequest) -> dict[str, Any]:
        readout = request.readout
        assert readout is not None
        if readout.pooling is not None:
            raise UnsupportedRequestError(
                f"{self._model} lives on an upstream that shows no hidden states", param="model"
            )
        return {
            "logprobs": 1,
            "logprob_token_ids": list(readout.token_ids),
            "return_tokens_as_token_ids": True,
        }


def _grammar(request: GenerationRequest) -> str:
    constraint = request.constraint
    if not isinstance(constraint, Constraint) or constraint.grammar is None:
        raise UnsupportedRequestError(
            "an answer with a prefix cannot be held to a form on this model's upstream; leave one "
            "of the two out",
            param="response_format",
        )
    return compact_json(constraint.grammar)


class UpstreamTokens:
    """The tokens of one request as they come."""

    def __init__(
        self, client: UpstreamClient, fields: dict[str, Any], request: GenerationRequest
    ) -> None:
        self._name = client.name
        self._request = request
        self._running = set(range(request.params.n))
        self._num_cached_tokens = 0
        self._exchange: Exchange = client.stream(COMPLETIONS_PATH, fields)
        self._arrivals = self._read()

    def close(self, index: int | None = None) -> None:
        """The upstream is left as soon as no sequence is wanted any more."""
        self._running = set() if index is None else self._running - {index}
        if not self._running:
            self._exchange.close()

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        while events := await self.take():
            for event in events:
                yield event

    async def take(self) -> list[TokenEvent]:
        """The events of the next chunk that has any; none at the end."""
        async for events in self._arrivals:
            return events
        return []

    async def _read(self) -> AsyncIterator[list[TokenEvent]]:
        """Ends come last: the cached tokens are told after them, and who has all ends leaves."""
        ends: list[TokenEvent] = []
        async for value in self._exchange:
            if value.get("error"):
                raise self._failure("failed in the middle of its answer")
            try:
                chunk = CompletionChunk.model_validate(value)
            except ValidationError:
                raise self._failure("sent a chunk that is none") from None
            if chunk.usage is not None and chunk.usage.prompt_tokens_details is not None:
                self._num_cached_tokens = chunk.usage.prompt_tokens_details.cached_tokens or 0
            events = [event for choice in chunk.choices for event in self._events(choice)]
            ends += [event for event in events if event.finish_reason is not None]
            if going_on := [event for event in events if event.finish_reason is None]:
                yield going_on
        if self._running:
            raise self._failure("ended before its answer did")
        if ends:
            yield [replace(end, num_cached_tokens=self._num_cached_tokens) for end in ends]

    def _events(self, choice: CompletionChoice) -> Iterator[TokenEvent]:
        if not 0 <= choice.index < self._request.params.n:
            raise self._failure(f"sent a choice {choice.index} that was not asked for")
        if choice.token_ids is None:
            raise self._failure("sends no token ids; it has to be a vLLM of 0.10.2 or later")
        if choice.index not in self._running:
            return
        if self._request.readout is not None:
            yield self._reading(choice)
            return
        token_ids, reason = choice.token_ids, self._reason(choice)
        if self._request.params.max_tokens == 0:  # such a server computes one at least
            token_ids = []
        if reason == "stop" and token_ids and token_ids[-1] in self._request.stop_token_ids:
            token_ids = token_ids[:-1]
        for position, token_id in enumerate(token_ids):
            logprob = None
            if choice.logprobs is not None and self._request.params.logprobs is not None:
                logprob = self._logprob(choice.logprobs, position, token_id)
            yield self._event(choice.index, token_id, logprob=logprob)
        if reason is not None:
            self._running.discard(choice.index)
            yield self._event(choice.index, None, reason)

    def _event(
        self,
        index: int,
        token_id: int | None,
        reason: FinishReason | None = None,
        logprob: TokenLogprob | None = None,
    ) -> TokenEvent:
        return TokenEvent(
            index, token_id, reason, logprob, num_cached_tokens=self._num_cached_tokens
        )

    def _reason(self, choice: CompletionChoice) -> FinishReason | None:
        if choice.finish_reason == "length":
            is_context = self._request.params.max_tokens is None
            return "model_length" if is_context else "length"
        if choice.finish_reason in (None, "stop"):
            known: Literal["stop"] | None = "stop" if choice.finish_reason else None
            return known
        raise self._failure(f"ended its answer with {choice.finish_reason[:50]!r}")

    def _logprob(self, logprobs: ChunkLogprobs, position: int, token_id: int) -> TokenLogprob:
        own, top = self._at(logprobs, position)
        most_likely = sorted(top.items(), key=lambda item: -item[1])
        wanted = self._request.params.logprobs or 0
        return TokenLogprob(token_id, own, tuple(most_likely[:wanted]))

    def _reading(self, choice: CompletionChoice) -> TokenEvent:
        """Logprobs stand in for logits: they differ by a number that is the same for all."""
        readout = self._request.readout
        assert readout is not None
        if choice.logprobs is None:
            raise self._failure("sent no logprobs")
        _, found = self._at(choice.logprobs, 0)
        if not found.keys() >= set(readout.token_ids):
            raise self._failure("left out logprobs that were asked for")
        logits = np.array([found[token_id] for token_id in readout.token_ids], np.float32)
        self._running.discard(choice.index)
        return TokenEvent(
            choice.index,
            None,
            "length",
            num_cached_tokens=self._num_cached_tokens,
            reading=Reading(None, logits),
        )

    def _at(self, logprobs: ChunkLogprobs, position: int) -> tuple[float, Mapping[int, float]]:
        """The logprob of the token at `position` of its chunk, and the alternatives' by id."""
        try:
            own, top = logprobs.token_logprobs[position], logprobs.top_logprobs[position] or {}
        except IndexError:
            own, top = None, {}
        ids = [(_TOKEN.fullmatch(token), value) for token, value in top.items()]
        if own is None or any(found is None for found, _ in ids):
            raise self._failure("sent logprobs that are none")
        return own, {int(found[1]): value for found, value in ids if found is not None}

    def _failure(self, what: str) -> UpstreamError:
        self._exchange.close()
        return UpstreamError(f"the upstream {self._name} {what}")
