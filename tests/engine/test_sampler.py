from __future__ import annotations

import re
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cierzo.engine.request import LogitsConstraint, SamplingParams
from cierzo.engine.sampler import apply_penalties, uniform_draws
from cierzo.engine.sequence import Sequence
from cierzo.errors import RequestError
from tests.engine.fake_model import PROMPT_TOKEN, VOCAB_SIZE, hash_logits
from tests.engine.helpers import (
    GREEDY,
    finish_all,
    make_core,
    make_request,
    prompt_of,
    run_all,
    run_one,
)

PROMPT = prompt_of(10)


def expected_logits(tokens: Seq[int], prompt: Seq[int] = PROMPT) -> NDArray[np.float64]:
    """After `tokens`, which begin with the prompt or are cut from it."""
    stored = np.array(tokens, np.int32)
    stored[: len(prompt)] += PROMPT_TOKEN
    return hash_logits(stored).astype(np.float64)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max()
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def test_greedy_takes_the_most_likely_token() -> None:
    tokens = list(PROMPT)
    for token_id in run_one(make_core(), make_request(PROMPT)).token_ids:
        assert token_id == expected_logits(tokens).argmax()
        tokens.append(token_id)
    assert len(tokens) == 30


def test_a_seed_fixes_the_text_and_another_changes_it() -> None:
    params = SamplingParams(temperature=1.0, max_tokens=30, seed=1)
    texts = [
        run_one(make_core(), make_request(PROMPT, replace(params, seed=seed))).token_ids
        for seed in (1, 1, 2, -1, 2**64 - 1)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert texts[3] == texts[4]  # seeds are taken modulo 2**64


def test_without_a_seed_texts_differ() -> None:
    params = SamplingParams(temperature=1.0, max_tokens=30)
    first, second = (run_one(make_core(), make_request(PROMPT, params)) for _ in range(2))
    assert first.token_ids != second.token_ids


def test_draws_are_uniform_and_unrelated() -> None:
    count = 4096
    zeros, steps = np.zeros(count, np.uint64), np.arange(count, dtype=np.uint64)
    draws = [
        uniform_draws(steps, zeros, zeros),
        uniform_draws(zeros, steps, zeros),
        uniform_draws(zeros, zeros, steps),
    ]
    for values in draws:
        assert 0 <= values.min() and values.max() < 1
        assert abs(values.mean() - 0.5) < 0.02
        assert np.histogram(values, 16)[0].min() > 180  # 256 expected
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.05
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 0.05


def test_sampled_tokens_follow_the_distribution() -> None:
    params = SamplingParams(temperature=0.7, max_tokens=1)
    core = make_core(max_running=64)
    requests = [make_request(PROMPT, replace(params, seed=seed)) for seed in range(1500)]
    counts = np.bincount(
        [result.token_ids[0] for result in run_all(core, requests)], minlength=VOCAB_SIZE
    )
    expected = np.exp(log_softmax(expected_logits(PROMPT) / 0.7))
    assert np.abs(counts / 1500 - expected).max() < 0.04


def test_top_k_and_a_small_top_p_keep_only_the_best() -> None:
    tiny = (SamplingParams(top_p=p, seed=5) for p in (1e-6, 1e-300))  # 1e-300 is 0 in float32
    for params in (SamplingParams(top_k=1, seed=5), *tiny):
        sampled = run_one(make_core(), make_request(PROMPT, replace(params, max_tokens=20)))
        assert sampled.token_ids == run_one(make_core(), make_request(PROMPT)).token_ids


@pytest.mark.parametrize("temperature", [1e-300, 1e300])
def test_a_temperature_beyond_float32_fails_no_step(temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=5, max_tokens=20)
    sampled = run_one(make_core(), make_request(PROMPT, params))
    assert len(sampled.token_ids) == 20


def penalised_twin(logits: NDArray[np.float32], seq: Sequence) -> NDArray[np.float32]:
    """The definitions, one token at a time."""
    params, values = seq.params, logits.copy()
    for token_id in set(seq.token_ids.tolist()):
        if values[token_id] > 0:
            values[token_id] /= np.float32(params.repetition_penalty)
        else:
            values[token_id] *= np.float32(params.repetition_penalty)
    completion = seq.token_ids[seq.num_prompt_tokens :].tolist()
    for token_id in set(completion):
        values[token_id] -= np.float32(completion.count(token_id) * params.frequency_penalty)
        values[token_id] -= np.float32(params.presence_penalty)
    return values


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(repetition_penalty=1.3),
        SamplingParams(frequency_penalty=0.5),
        SamplingParams(presence_penalty=-0.7),
        SamplingParams(repetition_penalty=0.8, frequency_penalty=1.5, presence_penalty=0.2),
    ],
)
def test_penalties_match_their_definitions(params: SamplingParams) -> None:
    sequence = Sequence(make_request((1, 2, 2, 3), params), 0, 100, seed=0)
    for token_id in (3, 4, 5, 5, 5):
        sequence.append(token_id)
    logits = hash_logits(sequence.token_ids)
    expected = penalised_twin(logits, sequence)
    assert (expected != logits).any()
    apply_penalties(logits, sequence)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


def test_stop_tokens_end_a_sequence_and_are_not_reported() -> None:
    free = run_one(make_core(), make_request(PROMPT)).token_ids
    stop = frozenset({free[5]})
    at = free.index(free[5])
    result = run_one(make_core(), make_request(PROMPT, stop_token_ids=stop))
    assert (result.token_ids, result.finish_reason) == (free[:at], "stop")
    assert result.events[-1].token_id is None


def test_min_tokens_holds_stop_tokens_back() -> None:
    free = run_one(make_core(), make_request(PROMPT)).token_ids
    stop = frozenset({free[0]})
    params = replace(GREEDY, min_tokens=8)
    result = run_one(make_core(), make_request(PROMPT, params, stop_token_ids=stop))
    assert len(result.token_ids) >= 8
    assert free[0] not in result.token_ids
    tokens = list(PROMPT)
    for token_id in result.token_ids[:8]:
        logits = expected_logits(tokens)
        logits[free[0]] = -np.inf
        assert token_id == logits.argmax()
        tokens.append(token_id)


def test_logprobs_are_of_the_unmodified_distribution() -> None:
    params = replace(GREEDY, logprobs=3, frequency_penalty=2.0, max_tokens=6)
    tokens = list(PROMPT)
    for event in run_one(make_core(), make_request(PROMPT, params)).events:
        expected = log_softmax(expected_logits(tokens))
        assert event.logprob is not None and event.token_id is not None
        assert event.logprob.token_id == event.token_id
        assert event.logprob.logprob == pytest.approx(expected[event.token_id], abs=1e-5)
        best = np.argsort(-expected, kind="stable")[:3]
        assert [token_id for token_id, _ in event.logprob.top] == best.tolist()
        assert [p for _, p in event.logprob.top] == pytest.approx(expected[best], abs=1e-5)
        tokens.append(event.token_id)


def test_logprobs_0_reports_the_chosen_token_alone() -> None:
    result = run_one(make_core(), make_request(PROMPT, replace(GREEDY, logprobs=0)))
    assert all(event.logprob and event.logprob.top == () for event in result.events)
    result = run_one(make_core(), make_request(PROMPT))
    assert all(event.logprob is None for event in result.events)


@pytest.mark.parametrize("token_budget", [16, 70, 256])
def test_prompt_logprobs_cover_the_prompt_whatever_the_chunks(token_budget: int) -> None:
    prompt = prompt_of(100)
    core = make_core(token_budget=token_budget)
    run_one(core, make_request(prompt))  # the prompt is in the prefix cache; it must not hide rows
    result = run_one(core, make_request(prompt, replace(GREEDY, prompt_logprobs=2)))
    assert [event.prompt_logprobs is not None for event in result.events] == [True] + [False] * 19
    first, *rest = result.events[0].prompt_logprobs or ()
    assert first is None and len(rest) == 99
    for position, entry in enumerate(rest, start=1):
        expected = log_softmax(expected_logits(prompt[:position], prompt))
        assert entry is not None and entry.token_id == prompt[position]
        assert entry.logprob == pytest.approx(expected[prompt[position]], abs=1e-5)
        assert [t for t, _ in entry.top] == np.argsort(-expected, kind="stable")[:2].tolist()


class OnlyTokens:
    """Allows `allowed` and is finished after `length` tokens. `fails_in` names a bad method."""

    def __init__(self, allowed: Seq[int], length: int, fails_in: str = "") -> None:
        self.allowed, self.length, self.fails_in = list(allowed), length, fails_in
        self.accepted: list[int] = []

    def allowed_tokens(self) -> NDArray[np.uint32]:
        self._fail("allowed_tokens")
        bits = np.zeros(-(-VOCAB_SIZE // 32) * 32, np.uint8)
        bits[self.allowed] = 1
        mask: NDArray[np.uint32] = np.packbits(bits, bitorder="little").view(np.uint32)
        return mask

    def accept(self, token_id: int) -> None:
        self._fail("accept")
        self.accepted.append(token_id)

    def is_finished(self) -> bool:
        return len(self.accepted) >= self.length

    def fork(self) -> LogitsConstraint:
        self._fail("fork")
        return OnlyTokens(self.allowed, self.length, self.fails_in)

    def _fail(self, method: str) -> None:
        if method == self.fails_in:
            raise ValueError(f"bad {method}")


def test_a_constraint_masks_and_ends_the_text() -> None:
    constraint = OnlyTokens([5, 50, 96], length=7)
    params = replace(GREEDY, temperature=1.0, seed=1, n=3)
    core = make_core()
    core.add(0, make_request(PROMPT, params, constraint=constraint))
    results = finish_all(core)
    assert len(results) == 3
    for result in results.values():
        assert len(result.token_ids) == 7 and set(result.token_ids) <= {5, 50, 96}
        assert result.finish_reason == "stop"
    assert constraint.accepted == results[0, 0].token_ids


@pytest.mark.parametrize("method", ["allowed_tokens", "accept", "fork"])
def test_a_constraint_that_raises_fails_its_own_request_only(method: str) -> None:
    core = make_core()
    events = core.add(
        0,
        make_request(
            PROMPT,
            replace(GREEDY, n=2),
            constraint=OnlyTokens([1], 9, fails_in=method),
        ),
    )
    core.add(1, make_request(PROMPT))
    results = finish_all(core)
    for arrival, event in events:
        results.setdefault((arrival, event.index), type(results[1, 0])()).events.append(event)
    for index in (0, 1):
        assert results[0, index].finish_reason == "error"
        assert f"bad {method}" in results[0, index].error
    assert results[1, 0].token_ids == run_one(make_core(), make_request(PROMPT)).token_ids
    assert core.stats().num_free_blocks == 64


def test_constraints_that_fail_in_the_same_step_end_their_request_once() -> None:
    class FailsLate(OnlyTokens):
        def accept(self, token_id: int) -> None:
            super().accept(token_id)
            if len(self.accepted) == 4:
                raise ValueError("too late")

        def fork(self) -> LogitsConstraint:
            return FailsLate(self.allowed, self.length)

    core = make_core()
    params = replace(GREEDY, n=3)
    core.add(0, make_request(PROMPT, params, constraint=FailsLate([5, 50], 9)))
    results = finish_all(core)
    assert {result.finish_reason for result in results.values()} == {"error"}
    assert not core.is_live(0) and core.stats().num_free_blocks == 64


def test_a_constraint_that_allows_nothing_is_an_error() -> None:
    result = run_one(make_core(), make_request(PROMPT, constraint=OnlyTokens([], 9)))
    assert result.finish_reason == "error" and "allows no token" in result.error


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("max_tokens", -1),
        ("min_tokens", -1),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("repetition_penalty", 0.0),
        ("n", 0),
        ("logprobs", -1),
        ("prompt_logprobs", -1),
    ],
)
def test_parameters_out_of_bounds_are_named(field: str, value: float) -> None:
    fields: dict[str, Any] = {field: value}
    with pytest.raises(RequestError, match=rf"{field} must be .*; got {value}") as caught:
        SamplingParams(**fields)
    assert caught.value.param == field


@pytest.mark.parametrize("value", ["a", 1.5, True, [1]])
@pytest.mark.parametrize(
    "field",
    ["top_k", "max_tokens", "min_tokens", "seed", "n", "logprobs", "prompt_logprobs"],
)
def test_what_is_not_an_integer_is_refused(field: str, value: object) -> None:
    fields: dict[str, Any] = {field: value}
    message = rf"{field} must be an integer.*; got {re.escape(repr(value))}"
    with pytest.raises(RequestError, match=message) as caught:
        SamplingParams(**fields)
    assert caught.value.param == field


@pytest.mark.parametrize("value", ["0.5", None, True, float("inf"), 10**400])
@pytest.mark.parametrize(
    "field",
    ["temperature", "top_p", "presence_penalty", "frequency_penalty", "repetition_penalty"],
)
def test_what_is_not_a_finite_number_is_refused(field: str, value: object) -> None:
    fields: dict[str, Any] = {field: value}
    with pytest.raises(RequestError, match=f"{field} must be a finite number; got") as caught:
        SamplingParams(**fields)
    assert caught.value.param == field


def test_numpy_numbers_are_numbers() -> None:
    fields: dict[str, Any] = {"max_tokens": np.int64(3), "temperature": np.float32(0), "top_p": 1}
    assert len(run_one(make_core(), make_request(PROMPT, SamplingParams(**fields))).token_ids) == 3


def test_stop_is_one_string_or_several() -> None:
    def stop_of(stop: Any) -> tuple[str, ...]:
        return SamplingParams(stop=stop).stop

    assert stop_of("City of") == ("City of",)
    assert stop_of(["a", "b"]) == stop_of(("a", "b")) == ("a", "b")
    for wrong in (None, 5, b"x", ["a", 1], {"a": 1}):
        with pytest.raises(RequestError, match="stop must be a string or a sequence") as caught:
            stop_of(wrong)
        assert caught.value.param == "stop"


def test_min_tokens_over_max_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match=r"min_tokens must be at most max_tokens \(3\); got 4"):
        SamplingParams(min_tokens=4, max_tokens=3)
