"""Random lives of an engine: whatever is submitted, aborted and stepped in whatever order,
every block comes back, and every text that finishes is the text it would have been alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from cierzo.config import BLOCK_SIZE
from cierzo.engine.core import EngineCore
from cierzo.engine.request import GenerationRequest, SamplingParams
from tests.engine.fake_model import FakeModel
from tests.engine.helpers import finish_all, make_core, make_request, prompt_of

NUM_BLOCKS = 14


@st.composite
def requests(draw: st.DrawFn) -> GenerationRequest:
    """Prompts share beginnings, so that they meet in the prefix cache."""
    shared = draw(st.integers(0, 70))
    own = draw(st.integers(1, 40))
    prompt = prompt_of(70)[:shared] + prompt_of(own, seed=draw(st.integers(1, 3)))
    params = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 1.0])),
        max_tokens=draw(st.integers(0, 40)),
        seed=draw(st.integers(0, 2)),
        n=draw(st.sampled_from([1, 1, 1, 3])),
        prompt_logprobs=draw(st.sampled_from([None, None, None, 0])),
    )
    return make_request(
        prompt,
        params,
        workspace=draw(st.sampled_from(["a", "b"])),
        stop_token_ids=frozenset({3, 4}),
    )


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


@cache
def alone(request: GenerationRequest, window: int | None) -> list[list[int]]:
    core = make_core(FakeModel(window), num_blocks=64, prefix_caching=False, token_budget=256)
    core.add(0, request)
    results = finish_all(core)
    return [results[0, index].token_ids for index in range(request.params.n)]


def check_holders(core: EngineCore) -> None:
    """Every hold is some running sequence's table entry, and what nobody holds is free."""
    pool = core.scheduler.pool
    held = Counter(b for s in core.scheduler.running for b in s.block_table.tolist() if b >= 0)
    assert [held[block] for block in range(pool.num_blocks)] == pool._num_holders
    assert pool.num_free == pool.num_blocks - len(held)
    for sequence in core.scheduler.running:
        assert sequence.num_blocks * BLOCK_SIZE >= sequence.num_computed_tokens


@settings(max_examples=60, deadline=None)
@given(actions=actions, window=st.sampled_from([None, 20]))
def test_every_block_returns_and_every_text_is_its_own(
    actions: list[GenerationRequest | Step | Abort], window: int | None
) -> None:
    core = make_core(
        FakeModel(window), num_blocks=NUM_BLOCKS, max_model_len=160, token_budget=24, max_running=4
    )
    submitted: list[GenerationRequest] = []
    aborted: set[tuple[int, int]] = set()
    texts: defaultdict[tuple[int, int], list[int]] = defaultdict(list)

    def step() -> None:
        for arrival, event in core.step():
            if event.token_id is not None:
                texts[arrival, event.index].append(event.token_id)

    for action in actions:
        if isinstance(action, GenerationRequest):
            core.add(len(submitted), action)
            submitted.append(action)
        elif isinstance(action, int):
            for _ in range(action):
                step()
        else:
            arrival, index = action
            core.abort(arrival, index)
            aborted |= {(arrival, i) for i in range(3) if index is None or i == index}
        check_holders(core)
    while core.has_work:
        step()
    check_holders(core)
    assert core.stats().num_free_blocks == NUM_BLOCKS
    assert not any(core.is_live(arrival) for arrival in range(len(submitted)))
    assert (core.scheduler.waiting, core.scheduler.num_waiting) == ({}, 0)
    for arrival, request in enumerate(submitted):
        for index, text in enumerate(alone(request, window)):
            if (arrival, index) not in aborted:
                assert texts[arrival, index] == text
