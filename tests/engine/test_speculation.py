"""Guessing ahead: what is guessed, when it pays, and that no text ever tells."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from cierzo.engine import speculation
from cierzo.engine.prompt_lookup import Draft, PromptLookup
from cierzo.engine.request import SamplingParams
from cierzo.engine.sequence import Sequence
from cierzo.engine.speculation import MAX_DRAFT_TOKENS, NUM_STEPS_REMEMBERED, Speculator, StepCost
from tests.engine.fake_model import FakeModel
from tests.engine.helpers import GREEDY, Oracle, make_core, make_request, other, prompt_of, run_one

SAMPLED = SamplingParams(temperature=0.8, max_tokens=60, seed=7)


def sequence_of(*token_ids: int, **fields: object) -> Sequence:
    sequence = Sequence(make_request(token_ids, GREEDY, **fields), 0, 1000, seed=0)
    sequence.max_completion_tokens = 1000
    return sequence


def say(sequence: Sequence, *token_ids: int) -> None:
    for token_id in token_ids:
        sequence.append(token_id)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
def test_right_guesses_save_steps_and_wrong_ones_change_nothing(params: SamplingParams) -> None:
    request = make_request(prompt_of(40), params)
    plain_model = FakeModel()
    plain = run_one(make_core(plain_model), request)
    for wrong in (0.0, 0.3, 1.0):
        model, oracle = FakeModel(), Oracle(wrong)
        oracle.texts[0, 0] = plain.token_ids
        core = make_core(model, oracle)
        assert run_one(core, request).token_ids == plain.token_ids
        stats = core.stats()
        assert stats.num_draft_tokens > 0
        assert (stats.num_accepted_tokens > 0) == (wrong < 1)
        if wrong == 0:
            assert stats.num_accepted_tokens == stats.num_draft_tokens
            assert len(model.batch_sizes) < len(plain_model.batch_sizes) / 3


def test_guesses_stop_before_the_last_token_and_before_a_stop_token() -> None:
    plain = run_one(make_core(), make_request(prompt_of(40))).token_ids
    oracle = Oracle()
    oracle.texts[0, 0] = plain
    core = make_core(model := FakeModel(), oracle)
    run_one(core, make_request(prompt_of(40)))
    assert model.num_computed_tokens == 40 + 19  # as without guesses: the 20th is never computed

    stop = plain[12]
    request = make_request(prompt_of(40), stop_token_ids=frozenset({stop}))
    core = make_core(model := FakeModel(), oracle)
    assert run_one(core, request).token_ids == plain[: plain.index(stop)]
    assert model.num_computed_tokens == 40 + plain.index(stop)


def test_a_wrong_guess_is_never_found_in_the_prefix_cache() -> None:
    # All guesses are wrong, and they fill whole blocks behind the prompt's.
    core = make_core(FakeModel(tells_prompt_apart=False), drafter := Oracle(wrong=1.0))
    plain = run_one(make_core(FakeModel(tells_prompt_apart=False)), make_request(prompt_of(32)))
    drafter.texts[0, 0] = plain.token_ids
    run_one(core, make_request(prompt_of(32)))
    assert core.stats().num_draft_tokens >= 16 and core.stats().num_accepted_tokens == 0
    guessed = [other(token_id) for token_id in plain.token_ids[1:17]]
    turn = make_request((*prompt_of(32), plain.token_ids[0], *guessed, 5))
    again = run_one(core, turn)
    assert again.events[0].num_cached_tokens == 33  # the prompt, and the token that was no guess
    cold = run_one(make_core(FakeModel(tells_prompt_apart=False)), turn)
    assert again.token_ids == cold.token_ids


def test_nobody_is_preempted_for_a_guess() -> None:
    params = replace(GREEDY, max_tokens=50)
    requests = [make_request(prompt_of(14, seed=i), params) for i in range(2)]
    oracle = Oracle()
    for arrival, request in enumerate(requests):
        oracle.texts[arrival, 0] = run_one(make_core(), request).token_ids
    core = make_core(FakeModel(), oracle, num_blocks=8, max_model_len=64)
    for arrival, request in enumerate(requests):
        core.add(arrival, request)
    texts: dict[int, list[int | None]] = {0: [], 1: []}
    while core.has_work:
        for arrival, event in core.step():
            texts[arrival].append(event.token_id)
    assert texts == {arrival: oracle.texts[arrival, 0] for arrival in (0, 1)}
    assert core.stats().num_preempted == 0  # each needs 4 of the 8 blocks, guesses or not
    assert core.stats().num_accepted_tokens > 0


def test_what_followed_the_same_two_tokens_is_guessed() -> None:
    lookup, sequence = PromptLookup(), sequence_of(1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert lookup.draft(sequence, 0.01, 4).token_ids == []
    say(sequence, 50, 3, 4)
    assert lookup.draft(sequence, 0.01, 4).token_ids == [5, 6, 7, 8]
    say(sequence, 5, 6)
    assert lookup.draft(sequence, 0.01, 4).token_ids == [7, 8, 9, 50]
    say(sequence, 60)
    assert lookup.draft(sequence, 0.01, 4).token_ids == []


def test_a_repetition_is_guessed_beyond_what_was_said() -> None:
    lookup, sequence = PromptLookup(), sequence_of(9, 1, 2, 3, 1, 2, 3, 1)
    assert lookup.draft(sequence, 0.01, 7).token_ids == [2, 3, 1, 2, 3, 1, 2]


def test_trust_grows_with_right_guesses_and_falls_with_wrong_ones() -> None:
    lookup, sequence = PromptLookup(), sequence_of(*range(100), 0, 1)

    def chances() -> list[float]:
        return lookup.draft(sequence, 0.01, 10).chances

    fresh = chances()
    assert 1 > fresh[0] > fresh[1] > fresh[9] > 0
    say(sequence, *range(2, 20))
    assert chances()[0] > 0.9 > fresh[0]
    for i in range(10):  # 20 21 again and again, and never what followed
        say(sequence, 20, 21, 200 + i, 300 + i)
    say(sequence, 20, 21)
    assert chances()[0] < 0.8 * fresh[0]


def test_a_new_sequence_begins_with_what_the_earlier_ones_taught() -> None:
    lookup = PromptLookup()
    fresh = lookup.draft(sequence_of(1, 2, 3, 1, 2), 0.01, 1).chances[0]
    for i in range(100):
        sequence = sequence_of(1, 2, 3, 1, 2)
        lookup.draft(sequence, 0.01, 1)
        say(sequence, 100 + i)
        lookup.draft(sequence, 0.01, 1)
    assert lookup.draft(sequence_of(1, 2, 3, 1, 2), 0.01, 1).chances[0] < 0.8 * fresh


def test_drafts_are_no_less_likely_than_asked() -> None:
    lookup, sequence = PromptLookup(), sequence_of(*range(100), 0, 1)
    draft = lookup.draft(sequence, 0.2, 10)
    assert 0 < len(draft.token_ids) < 10 and draft.chances[-1] >= 0.2


def test_the_cost_of_a_row_is_learnt_from_steps() -> None:
    cost = StepCost()
    for i in range(200):
        num_rows = 1 + i % 7
        cost.observe(num_rows, 0.005 + 0.001 * num_rows)
    assert cost.row_s == pytest.approx(0.001, rel=0.01)
    assert cost.of(16) == pytest.approx(0.021, rel=0.01)
    cost.observe(4, 5.0)  # somebody else had the processor
    assert cost.of(16) < 0.03


class Sure:
    """Always has a guess, and thinks the same of each."""

    def __init__(self, chance: float) -> None:
        self._chance = chance

    def draft(self, sequence: Sequence, least_chance: float, max_tokens: int) -> Draft:
        chances = [self._chance ** (1 + i) for i in range(max_tokens)]
        return Draft([1] * max_tokens, [chance for chance in chances if chance >= least_chance])


def lengths(
    chance: float, row_share: float, num_sequences: int, room: int = 1000, extra: float = 0.0
) -> list[int]:
    """Draft lengths where a row costs that share of a step's fixed cost, and a step with guesses
    `extra` of it more."""
    speculator = Speculator(Sure(chance))
    sequences = [sequence_of(1, 2, 3) for _ in range(num_sequences)]
    assert speculator.plan(sequences, num_sequences, room) == {}
    for i in range(100):
        num_guessed = i % 5
        num_rows = num_sequences + num_guessed
        step_s = 0.01 * (1 + row_share * num_rows + extra * (num_guessed > 0))
        speculator.observe(num_rows, num_guessed, num_guessed, step_s)
    drafts = speculator.plan(sequences, num_sequences, room)
    return [len(drafts[s].token_ids) if s in drafts else 0 for s in sequences]


def test_as_many_guesses_as_pay() -> None:
    assert lengths(0.99, 0.01, 1) == [MAX_DRAFT_TOKENS]
    assert 2 <= lengths(0.7, 0.1, 1)[0] <= 6
    assert lengths(0.3, 0.5, 1) == [0]
    assert lengths(0.8, 0.1, 64) == [0] * 64  # 64 rows pay for most of a step themselves
    assert sum(lengths(0.99, 0.01, 16, room=20)) == 20


def test_no_guesses_where_their_path_is_slower_altogether() -> None:
    assert lengths(0.6, 0.1, 1, extra=0.2) != [0]
    assert lengths(0.6, 0.1, 1, extra=1.0) == [0]
    assert lengths(0.99, 0.1, 1, extra=1.0) != [0]


def test_guesses_once_measured_as_dear_are_tried_again() -> None:
    speculator, sequence = Speculator(Sure(0.97)), sequence_of(1, 2, 3)
    for i in range(50):  # a busy machine: steps with guesses happened to be slow
        num_guessed = i % 4
        speculator.observe(1 + num_guessed, num_guessed, num_guessed, 0.01 * (1 + num_guessed))
    assert speculator.plan([sequence], 1, 100) == {}
    for _ in range(NUM_STEPS_REMEMBERED):
        speculator.observe(1, 0, 0, 0.01)
    assert speculator.plan([sequence], 1, 100) != {}


def time_share(num_sequences: int, share_right: float, num_tokens: int = 40_000) -> float:
    """Time for so many tokens over that without guesses, where all guesses seem good, that share
    of steps has them right, and a row costs a tenth of a step of one row."""
    speculator = Speculator(Sure(0.9))
    sequences = [sequence_of(1, 2, 3) for _ in range(num_sequences)]
    chooser, took, said = random.Random(0), 0.0, 0
    while said < num_tokens:
        drafts = speculator.plan(sequences, num_sequences, 1000)
        num_guessed = sum(len(draft.token_ids) for draft in drafts.values())
        num_right = num_guessed if chooser.random() < share_right else 0
        num_rows = num_sequences + num_guessed
        step_s = 0.9 + 0.1 * num_rows
        speculator.observe(num_rows, num_guessed, num_right, step_s)
        took += step_s
        said += num_sequences + num_right
    return took / (num_tokens / num_sequences * (0.9 + 0.1 * num_sequences))


@pytest.mark.parametrize("num_sequences", [1, 2, 8])
def test_guesses_that_are_never_right_cost_half_a_hundredth(num_sequences: int) -> None:
    assert time_share(num_sequences, share_right=0.0) < 1.01


@pytest.mark.parametrize("num_sequences", [1, 2, 8])
def test_guesses_that_are_right_are_not_held_back(num_sequences: int) -> None:
    assert time_share(num_sequences, share_right=0.9) < 0.75


def test_what_a_step_without_guesses_takes_is_never_long_unknown() -> None:
    speculator, sequence = Speculator(Sure(0.99)), sequence_of(1, 2, 3)
    num_plain = 0
    for _ in range(500):
        drafts = speculator.plan([sequence], 1, 1000)
        num_guessed = sum(len(draft.token_ids) for draft in drafts.values())
        num_plain += num_guessed == 0
        speculator.observe(1 + num_guessed, num_guessed, num_guessed, 1 + 0.01 * num_guessed)
    assert 5 <= num_plain <= 10


def test_a_pause_while_looking_for_guesses_is_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    speculator, sequence = Speculator(Sure(0.9)), sequence_of(1, 2, 3)
    for _ in range(50):
        speculator.plan([sequence], 1, 100)
        speculator.observe(1, 0, 0, 0.002)
    moments = iter([0.0, 10.0])
    with monkeypatch.context() as patch:
        patch.setattr(speculation, "perf_counter", lambda: next(moments))
        speculator.plan([sequence], 1, 100)
    speculator.plan([], 0, 100)  # of a step with prompts alone
    speculator.observe(1, 0, 0, 0.002)
    for _ in range(2000):
        speculator.plan([sequence], 1, 100)
        speculator.observe(1, 0, 0, 0.002)
    assert speculator.plan([sequence], 1, 100) != {}


def test_prompts_are_never_taken_for_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of prompt logprobs have logits in every row, as guesses have."""
    seen: list[int] = []

    def observe(self: Speculator, rows: int, guessed: int, right: int, step_s: float) -> None:
        seen.append(guessed)

    monkeypatch.setattr(Speculator, "observe", observe)
    core = make_core(speculation=True)
    run_one(core, make_request(prompt_of(200), replace(GREEDY, prompt_logprobs=1, max_tokens=3)))
    assert seen and not any(seen)
