"""Tokens that come together leave together: in one delta for each choice."""

from __future__ import annotations

import asyncio
from typing import cast

from cierzo.engine.request import GenerationRequest, SamplingParams, TokenEvent
from cierzo.engine.stream import TokenStream
from cierzo.server.completion import (
    AnswerPlan,
    ChoiceDelta,
    PreparedCompletion,
    TokenCompletion,
)
from cierzo.server.metering import Metered
from tests.server.scripted import END_THINK, THINK, ByteTokenizer, ScriptedEngine


class Unmetered:
    """Hands over what came at once."""

    def __init__(self, events: list[TokenEvent], n: int) -> None:
        self._events, self._n = events, n

    def submit(self, engine: ScriptedEngine, request: GenerationRequest) -> TokenStream:
        stream = TokenStream(self._n, lambda index: None)
        stream.put(self._events, {})
        return stream


def read(*tokens: tuple[int, int | str], n: int = 1) -> list[ChoiceDelta]:
    """The deltas of tokens, given as index and id or letter, which came together with the ends."""
    ids = [(index, ord(token) if isinstance(token, str) else token) for index, token in tokens]
    events = [TokenEvent(index, token_id) for index, token_id in ids]
    events += [TokenEvent(index, None, "stop") for index in range(n)]
    request = GenerationRequest("r", (1,), SamplingParams(n=n))
    prepared = PreparedCompletion(request, AnswerPlan(ByteTokenizer()))
    completion = TokenCompletion(ScriptedEngine(), prepared)

    async def arrivals() -> list[list[ChoiceDelta]]:
        metered = cast(Metered, Unmetered(events, n))
        return [deltas async for deltas in completion.deltas(metered)]

    (deltas,) = asyncio.run(arrivals())
    assert completion.usage.num_completion_tokens == len(tokens)
    return deltas


def test_one_delta_for_each_choice() -> None:
    deltas = read((0, "a"), (1, "x"), (0, "b"), (1, "y"), n=2)
    assert [(delta.index, delta.text) for delta in deltas] == [(0, "ab"), (1, "xy")]
    assert [delta.finish_reason for delta in deltas] == ["stop", "stop"]


def test_thinking_and_the_text_after_it_share_one() -> None:
    (delta,) = read((0, THINK), (0, "h"), (0, "m"), (0, END_THINK), (0, "A"))
    assert (delta.thinking, delta.ends_thinking, delta.text) == ("hm", True, "A")


def test_thinking_that_begins_again_stands_behind_the_text() -> None:
    first, second = read((0, "A"), (0, THINK), (0, "h"), (0, END_THINK))
    assert (first.text, first.thinking) == ("A", "")
    assert (second.text, second.thinking, second.ends_thinking) == ("", "h", True)
