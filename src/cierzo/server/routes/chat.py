"""`POST /v1/chat/completions`: owns a request's life from its body to its last byte."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cierzo.errors import EngineError
from cierzo.server import sse
from cierzo.server.chat_request import PreparedChat, prepare_chat
from cierzo.server.completion import ChoiceDelta, Usage, read_answers
from cierzo.server.error_responses import MAX_FAULTS, FieldErrors, json_response
from cierzo.server.metrics import Metrics
from cierzo.server.request_body import parse_json, read_body
from cierzo.server.schemas.chat import ChatCompletionRequest
from cierzo.server.served_model import ServedModel

IGNORED_FIELDS_HEADER = "x-cierzo-ignored-fields"


async def create_chat_completion(request: Request) -> Response:
    state = request.app.state
    parse = partial(_parse, strict=state.config.strict_fields)
    body, headers = await read_body(request, parse, state.config.max_body_bytes)
    model: ServedModel = state.models.get(body.model)
    chat = await asyncio.to_thread(prepare_chat, body, model, request.state.request_id)
    answer = _Answer(model, body.model, chat, state.metrics)
    if body.stream:
        return sse.SseResponse(
            answer.events(),
            ping_interval_s=state.config.ping_interval_s,
            last_words=answer.last_words,
            headers=headers,
        )
    content = await sse.run_until_disconnect(answer.whole(), request.receive)
    return json_response(content, headers=headers)


class _Answer:
    """One answer on its way out, whole or as events; both read the same deltas."""

    def __init__(self, model: ServedModel, name: str, chat: PreparedChat, metrics: Metrics) -> None:
        self._model = model
        self._chat = chat
        self._metrics = metrics
        self._usage = Usage(len(chat.request.prompt_token_ids))
        self._head: dict[str, Any] = {
            "id": chat.request.request_id.replace("-", ""),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": name,
        }

    async def _deltas(self) -> AsyncGenerator[ChoiceDelta, None]:
        """The engine's answer; what it cost is recorded however it ends."""
        n = self._chat.request.params.n
        reasons = ["aborted"] * n
        stream = self._model.engine.submit(self._chat.request)
        try:
            async with aclosing(read_answers(stream, self._chat.plan, n, self._usage)) as deltas:
                async for delta in deltas:
                    if delta.finish_reason is not None:
                        reasons[delta.index] = delta.finish_reason
                    yield delta
        finally:
            stream.close()
            self._metrics.record(self._model.id, self._usage, reasons)

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece. Raises EngineError when a choice ends in an error."""
        totals = [ChoiceDelta(index) for index in range(self._chat.request.params.n)]
        async with aclosing(self._deltas()) as deltas:
            async for delta in deltas:
                if delta.finish_reason == "error":
                    raise EngineError(delta.error or "the engine stopped this request")
                totals[delta.index].add(delta)
        choices = [_choice(total) for total in totals]
        return {**self._head, "choices": choices, "usage": self._usage.as_json()}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Role first, then deltas; the last chunk carries finish_reason and usage; [DONE]."""
        head = {**self._head, "object": "chat.completion.chunk"}
        num_running = self._chat.request.params.n
        has_begun = False
        async with aclosing(self._deltas()) as deltas:
            async for delta in deltas:
                if not has_begun:
                    if delta.finish_reason == "error":  # nothing sent yet: a real HTTP error
                        raise EngineError(delta.error or "the engine stopped this request")
                    has_begun = True
                    for index in range(num_running):
                        yield sse.event({**head, "choices": [_role_choice(index)], "usage": None})
                if delta.finish_reason is not None:
                    num_running -= 1
                usage = self._usage.as_json() if num_running == 0 else None
                yield sse.event({**head, "choices": [_delta_choice(delta)], "usage": usage})
        yield sse.DONE

    def last_words(self, error: EngineError) -> bytes:
        """The end of a stream whose answer failed before it began."""
        head = {**self._head, "object": "chat.completion.chunk"}
        choices = [
            _delta_choice(ChoiceDelta(index, finish_reason="error"))
            for index in range(self._chat.request.params.n)
        ]
        return sse.event({**head, "choices": choices, "usage": self._usage.as_json()}) + sse.DONE


def _parse(data: bytes, *, strict: bool) -> tuple[ChatCompletionRequest, dict[str, str]]:
    """The request, and headers that name the fields it ignores. Raises FieldErrors."""
    body = parse_json(data, ChatCompletionRequest)
    extras = list(islice(body.extra_fields(strict=strict), MAX_FAULTS))
    if strict and extras:
        raise FieldErrors.from_extra_fields(extras)
    if not extras:
        return body, {}
    names = ", ".join(".".join(map(str, location)) for location, _ in extras)
    # Escaped, since a name is the client's and a header must not take line breaks from it.
    return body, {IGNORED_FIELDS_HEADER: names.encode("unicode_escape").decode()[:1024]}


def _choice(total: ChoiceDelta) -> dict[str, Any]:
    """A whole choice, from the sum of its deltas."""
    message = {
        "role": "assistant",
        "content": _content(total),
        "tool_calls": total.tool_calls or None,
        "prefix": False,
    }
    choice = {"index": total.index, "message": message, "finish_reason": total.finish_reason}
    return choice | _logprobs(total)


def _content(delta: ChoiceDelta) -> str | list[dict[str, Any]]:
    """Text; as a list of chunks while there is thinking in it."""
    if not delta.thinking and not delta.ends_thinking:
        return delta.text
    thinking = [{"type": "text", "text": delta.thinking}] if delta.thinking else []
    chunk = {"type": "thinking", "thinking": thinking, "closed": delta.ends_thinking}
    return [chunk, {"type": "text", "text": delta.text}] if delta.text else [chunk]


def _role_choice(index: int) -> dict[str, Any]:
    return {"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}


def _delta_choice(delta: ChoiceDelta) -> dict[str, Any]:
    content: dict[str, Any] = {"content": _content(delta)}
    if delta.tool_calls:
        content["tool_calls"] = delta.tool_calls
    choice = {"index": delta.index, "delta": content, "finish_reason": delta.finish_reason}
    return choice | _logprobs(delta)


def _logprobs(delta: ChoiceDelta) -> dict[str, Any]:
    """The two logprob fields, each only where it was asked for."""
    entries = {"logprobs": delta.logprobs, "prompt_logprobs": delta.prompt_logprobs}
    return {name: {"content": value} for name, value in entries.items() if value is not None}
