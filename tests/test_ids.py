"""Ids ascend, whatever the clock does."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from cierzo.ids import continue_after, new_id


def test_ids_ascend_though_the_clock_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [new_id()]
    now_ns = time.time_ns()
    for jump_s in (0, -86_400, 0, 3600, 0, -7200):
        monkeypatch.setattr(time, "time_ns", lambda jump_s=jump_s: now_ns + jump_s * 10**9)
        made += [new_id() for _ in range(50)]
    assert made == sorted(made) and len(set(made)) == len(made)
    assert {uuid.UUID(one).version for one in made} == {7}


def test_ids_say_when_they_were_made() -> None:
    before_ms = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id())
    assert before_ms <= made.int >> 80
    assert made.variant == uuid.RFC_4122


def test_threads_never_get_the_same() -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: new_id(), range(4000)))
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("given", ["", "kept", "ffffffff-ffff-7fff-bfff-ffffffffffff"])
def test_ids_that_nobody_can_have_given_are_passed_over(given: str) -> None:
    before = new_id()
    continue_after(given)
    assert before < new_id() < "0a"
