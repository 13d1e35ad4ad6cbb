"""Tokens that come together leave together: in one delta for each choice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import cast

from cierzo.engine.request import GenerationRequest, SamplingParams, TokenEvent, TokenLogprob
from cierzo.engine.stream import TokenStream
from cierzo.server.completion import (
    AnswerPlan,
    ChoiceDelta,
    PreparedCompletion,
    TokenCompletion,
    Usage,
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
    deltas, usage = read_events(events, n=n)
    assert usage.num_completion_tokens == len(tokens)
    return deltas


def read_events(
    events: list[TokenEvent], plan: AnswerPlan | None = None, n: int = 1
) -> tuple[list[ChoiceDelta], Usage]:
    """The deltas of events that came together, and what they were counted as."""
    request = GenerationRequest("r", (1,), SamplingParams(n=n))
    prepared = PreparedCompletion(request, plan or AnswerPlan(ByteTokenizer()))
    completion = TokenCompletion(ScriptedEngine(), prepared)

    async def arrivals() -> list[list[ChoiceDelta]]:
        metered = cast(Metered, Unmetered(events, n))
        return [deltas async for deltas in completion.deltas(metered)]

    (deltas,) = asyncio.run(arrivals())
    return deltas, completion.usage


def said(text: str) -> list[TokenEvent]:
    return [TokenEvent(0, ord(letter)) for letter in text]


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


@dataclass(frozen=True)
class Call:
    id: str
    name: str
    arguments: str


class CapitalsAreCalls:
    """A parser to which each capital is a call of the tool with its name."""

    def add(self, token_id: int, text: str) -> tuple[str, list[Call]]:
        return ("", [Call("call", text, "{}")]) if text.isupper() else (text, [])

    def flush(self) -> tuple[str, list[Call]]:
        return "", []


def test_logprobs_stand_in_the_order_of_their_tokens() -> None:
    events = [replace(e, logprob=TokenLogprob(e.token_id or 0, -0.5, ())) for e in said("abc")]
    plan = AnswerPlan(ByteTokenizer(), wants_logprobs=True)
    (delta,), _ = read_events([*events, TokenEvent(0, None, "stop")], plan)
    assert delta.text == "abc"
    assert [entry["token"] for entry in delta.logprobs or ()] == ["a", "b", "c"]


def test_calls_keep_their_numbers_and_end_the_answer_as_such() -> None:
    plan = AnswerPlan(ByteTokenizer(), make_parser=CapitalsAreCalls)
    (delta,), _ = read_events([*said("aBC"), TokenEvent(0, None, "stop")], plan)
    calls = [(call["index"], call["function"]["name"]) for call in delta.tool_calls]
    assert (delta.text, calls) == ("a", [(0, "B"), (1, "C")])
    assert delta.finish_reason == "tool_calls"


def test_behind_a_stop_string_nothing_is_read_or_counted() -> None:
    plan = AnswerPlan(ByteTokenizer(), stop=("cd",))
    (delta,), usage = read_events([*said("abcdef"), TokenEvent(0, None, "length")], plan)
    assert (delta.text, delta.finish_reason) == ("ab", "stop")
    assert usage.num_completion_tokens == 4


def test_an_error_leaves_behind_the_text_before_it() -> None:
    (delta,), _ = read_events([*said("ab"), TokenEvent(0, None, "error", error="no memory")])
    assert (delta.text, delta.finish_reason) == ("ab", "error")
    assert "no memory" in str(delta.error)
