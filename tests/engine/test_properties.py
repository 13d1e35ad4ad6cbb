"""Random lives of an engine: whatever is submitted, aborted and stepped in whatever order,
every block comes back, and every text that finishes is the text it would have been alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cierzo.config import BLOCK_SIZE
from cierzo.engine.core import EngineCore
from cierzo.engine.request import (
    GenerationRequest,
    LogitsConstraint,
    SamplingParams,
    TokenEvent,
)
from tests.engine.fake_model import VOCAB_SIZE, FakeModel
from tests.engine.helpers import Oracle, finish_all, make_core, make_request, prompt_of

NUM_BLOCKS = 14


@st.composite
def requests(draw: st.DrawFn) -> GenerationRequest:
    """Prompts share beginnings, so that they meet in the prefix cache."""
    shared = draw(st.integers(0, 70))
    own = draw(st.integers(1, 40))
    prompt = prompt_of(70)[:shared] + prompt_of(own, seed=draw(st.integers(1, 3)))
    max_tokens = draw(st.integers(0, 40))
    params = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 1.0])),
        max_tokens=max_tokens,
        seed=draw(st.integers(0, 2)),
        min_tokens=min(max_tokens, draw(st.sampled_from([0, 0, 0, 8]))),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, 0.5])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.2])),
        n=draw(st.sampled_from([1, 1, 1, 3])),
        logprobs=draw(st.sampled_from([None, None, 2])),
        prompt_logprobs=draw(st.sampled_from([None, None, None, 0])),
    )
    return make_request(
        prompt,
        params,
        workspace=draw(st.sampled_from(["a", "b"])),
        stop_token_ids=frozenset({3, 4}),
        constraint=draw(st.sampled_from([None, None, Dance(20)])),
    )


class Dance:
    """A grammar of `length` tokens: each is one of the thirty above the last, which wrap around."""

    def __init__(self, length: int, last: int = 0) -> None:
        self._left, self._last = length, last

    def allowed_tokens(self) -> NDArray[np.uint32]:
        bits = np.zeros(-(-VOCAB_SIZE // 32) * 32, np.uint8)
        bits[(self._last + 1 + np.arange(30)) % VOCAB_SIZE] = 1
        mask: NDArray[np.uint32] = np.packbits(bits, bitorder="little").view(np.uint32)
        return mask

    def accept(self, token_id: int) -> None:
        assert (token_id - self._last - 1) % VOCAB_SIZE < 30, "a token that was not allowed"
        self._left, self._last = self._left - 1, token_id

    def is_finished(self) -> bool:
        return self._left <= 0

    def fork(self) -> LogitsConstraint:
        return Dance(self._left, self._last)


def fresh(request: GenerationRequest) -> GenerationRequest:
    """The same request again: its constraint has not moved yet."""
    constraint = request.constraint
    return replace(request, constraint=None if constraint is None else constraint.fork())


Step = int
Abort = tuple[int, int | None]
actions = st.lists(
    st.one_of(
        requests(),
        st.integers(1, 8),
        st.tuples(st.integers(0, 15), st.sampled_from([None, None, 0, 1])),
    ),
    max_size=30,
)


def said(events: list[TokenEvent], with_prompt: bool = True) -> list[object]:
    """Tokens with all that was reported of them, and the end."""
    return [
        (e.token_id, e.logprob, with_prompt and e.prompt_logprobs, e.finish_reason, e.error)
        for e in events
    ]


@cache
def alone(request: GenerationRequest, window: int | None) -> list[list[TokenEvent]]:
    core = make_core(
        FakeModel(window),
        num_blocks=64,
        max_model_len=160,
        token_budget=256,
        prefix_caching=False,
    )
    core.add(0, fresh(request))
    results = finish_all(core)
    return [results[0, index].events for index in range(request.params.n)]


def check_holders(core: EngineCore) -> None:
    """Every hold is some running sequence's table entry, and what nobody holds is free."""
    pool = core.scheduler.pool
    held = Counter(b for s in core.scheduler.running for b in s.block_table.tolist() if b >= 0)
    assert [held[block] for block in range(pool.num_blocks)] == pool._num_holders
    assert pool.num_free == pool.num_blocks - len(held)
    for sequence in core.scheduler.running:
        assert sequence.num_blocks * BLOCK_SIZE >= sequence.num_computed_tokens


@settings(max_examples=60, deadline=None)
@given(
    actions=actions,
    window=st.sampled_from([None, 20]),
    wrong=st.sampled_from([None, 0.0, 0.2, 1.0]),
)
def test_every_block_returns_and_every_text_is_its_own(
    actions: list[GenerationRequest | Step | Abort], window: int | None, wrong: float | None
) -> None:
    oracle = Oracle(wrong or 0.0)
    core = make_core(
        FakeModel(window),
        oracle,
        num_blocks=NUM_BLOCKS,
        max_model_len=160,
        token_budget=24,
        max_running=4,
        speculation=wrong is not None,
    )
    submitted: list[GenerationRequest] = []
    aborted: set[tuple[int, int]] = set()
    events: defaultdict[tuple[int, int], list[TokenEvent]] = defaultdict(list)

    def step() -> None:
        for arrival, event in core.step():
            events[arrival, event.index].append(event)

    for action in actions:
        if isinstance(action, GenerationRequest):
            for index, expected in enumerate(alone(action, window)):
                oracle.texts[len(submitted), index] = [
                    event.token_id for event in expected if event.token_id is not None
                ]
            core.add(len(submitted), fresh(action))
            submitted.append(action)
        elif isinstance(action, int):
            for _ in range(action):
                step()
        else:
            core.abort(*action)
            aborted |= {(action[0], i) for i in range(3) if action[1] in (None, i)}
        check_holders(core)
    while core.has_work:
        step()
    check_holders(core)
    assert core.stats().num_free_blocks == NUM_BLOCKS
    assert not any(core.is_live(arrival) for arrival in range(len(submitted)))
    assert (core.scheduler.waiting, core.scheduler.num_waiting) == ({}, 0)
    for arrival, request in enumerate(submitted):
        for index, expected in enumerate(alone(request, window)):
            if (arrival, index) not in aborted:
                # The first sequence's prompt logprobs are all others', and end with it.
                with_prompt = (arrival, 0) not in aborted
                assert said(events[arrival, index], with_prompt) == said(expected, with_prompt)
