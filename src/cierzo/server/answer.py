"""An answer on its way out: the engine's tokens as one JSON object or as a stream of chunks.

Chat and fill-in-the-middle answer in the same shapes. Knows nothing of how a prompt was made.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cierzo.errors import EngineError
from cierzo.server import sse
from cierzo.server.completion import ChoiceDelta, Completion, with_ends
from cierzo.server.error_responses import json_response
from cierzo.server.metering import Metered
from cierzo.server.metrics import Metrics


class Answer:
    """One request's answer on its way out, whole or as events; both read the same deltas.

    `name` is what the client called the model; `guardrails` is what was found in its input.
    """

    def __init__(
        self,
        metered: Metered,
        name: str,
        completion: Completion,
        metrics: Metrics,
        guardrails: list[dict[str, Any]] | None = None,
    ) -> None:
        self._metered = metered
        self._completion = completion
        self._metrics = metrics
        self._n, self._usage = completion.n, completion.usage
        self._tail = {} if guardrails is None else {"guardrails": guardrails}
        self._head: dict[str, Any] = {
            "id": metered.request_id.replace("-", ""),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": name,
        }

    async def _deltas(self) -> AsyncGenerator[list[ChoiceDelta], None]:
        """The model's answers. Their last deltas come when their row is in the ledger."""
        reasons = ["aborted"] * self._n
        self._metered.begin(self._usage, self._usage.num_prompt_tokens)
        try:
            with self._metered.unless_refused():
                answers = self._completion.deltas(self._metered)
                async with aclosing(with_ends(answers, self._n)) as arrivals:
                    async for deltas in arrivals:
                        for delta in deltas:
                            if delta.finish_reason is not None:
                                reasons[delta.index] = delta.finish_reason
                        if "aborted" not in reasons:
                            await self._end(reasons)
                        yield deltas
        finally:
            if self._metered.has_computed:
                self._metrics.record(self._metered.model.id, self._usage, reasons)

    async def _end(self, reasons: list[str]) -> None:
        if "error" in reasons:
            self._metered.fail()
        else:
            await self._metered.settle()

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece. Raises EngineError when a choice ends in an error."""
        totals = [ChoiceDelta(index) for index in range(self._n)]
        async with aclosing(self._deltas()) as arrivals:
            async for deltas in arrivals:
                for delta in deltas:
                    if delta.finish_reason == "error":
                        raise delta.error or EngineError("the engine stopped this request")
                    totals[delta.index].add(delta)
        choices = [_choice(total) for total in totals]
        return {**self._head, "choices": choices, "usage": self._usage.as_json(), **self._tail}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Role first, then deltas; the last chunk carries finish_reason and usage; [DONE].

        What came together goes out together: a system call for each would cost more than the rest.
        """
        head = {**self._head, "object": "chat.completion.chunk"}
        num_running = self._n
        has_begun = False
        async with aclosing(self._deltas()) as arrivals:
            async for deltas in arrivals:
                chunks = []
                if not has_begun:
                    first = deltas[0]
                    if first.finish_reason == "error":  # nothing sent yet: a real HTTP error
                        raise first.error or EngineError("the engine stopped this request")
                    has_begun = True
                    chunks = [
                        {**head, "choices": [_role_choice(index)], "usage": None}
                        for index in range(num_running)
                    ]
                for delta in deltas:
                    num_running -= delta.finish_reason is not None
                    chunks.append({**head, "choices": [_delta_choice(delta)], "usage": None})
                if num_running == 0:
                    chunks[-1] |= {"usage": self._usage.as_json(), **self._tail}
                yield b"".join(map(sse.event, chunks)) + (b"" if num_running else sse.DONE)

    def last_words(self, error: EngineError) -> bytes:
        """The end of a stream whose answer failed before it began."""
        head = {**self._head, "object": "chat.completion.chunk"}
        choices = [
            _delta_choice(ChoiceDelta(index, finish_reason="error")) for index in range(self._n)
        ]
        return sse.event({**head, "choices": choices, "usage": self._usage.as_json()}) + sse.DONE


async def send_answer(
    request: Request, answer: Answer, *, stream: bool, headers: dict[str, str]
) -> Response:
    """The response to `request`: the answer in one piece or as events, `headers` added."""
    if stream:
        return sse.SseResponse(
            answer.events(),
            ping_interval_s=request.app.state.config.ping_interval_s,
            last_words=answer.last_words,
            headers=headers,
        )
    content = await sse.run_until_disconnect(answer.whole(), request.receive)
    return json_response(content, headers=headers)


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
