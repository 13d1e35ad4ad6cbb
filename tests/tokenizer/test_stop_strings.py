"""Stop strings are cut wherever the token borders fall."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cierzo.tokenizer.stop_strings import StopMatcher

LETTERS = st.text(alphabet="abc", max_size=12)


def _run(stop: list[str], parts: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stop)
    emitted = ""
    for part in parts:
        text, stopped = matcher.add(part)
        emitted += text
        if stopped:
            assert matcher.add("more") == ("", True)
            return emitted, True
    return emitted + matcher.flush(), False


@given(stop=st.lists(LETTERS, max_size=3), parts=st.lists(LETTERS, max_size=8))
def test_any_borders_give_the_same_text(stop: list[str], parts: list[str]) -> None:
    whole = "".join(parts)
    text, stopped = _run(stop, parts)
    stops = [string for string in stop if string]
    assert stopped == any(string in whole for string in stops)
    assert whole.startswith(text)
    assert not any(string in text for string in stops)
    if not stopped:
        assert text == whole


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["a###b"], "a"),
        (["a#", "##b"], "a"),
        (["a", "#", "#", "#"], "a"),
        (["####"], ""),
        (["a##", "b"], "a##b"),
    ],
)
def test_stop_string_is_not_part_of_the_text(parts: list[str], text: str) -> None:
    assert _run(["###"], parts) == (text, "###" in "".join(parts))


def test_text_that_cannot_become_a_stop_string_is_not_held() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.add("the EN") == ("the ", False)
    assert matcher.add("vy") == ("ENvy", False)
    assert matcher.flush() == ""
