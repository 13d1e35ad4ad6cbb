"""Flag over variable over default, and nothing unknown passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cierzo.errors import SettingError
from cierzo.machine import allowed_cpus
from cierzo.settings import Settings, load_settings, nbytes_of, variable_of


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable_of(name), raising=False)


def test_flag_over_variable_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().port == 8000
    monkeypatch.setenv("CIERZO_PORT", "9000")
    assert load_settings().port == 9000
    assert load_settings({"port": None}).port == 9000
    assert load_settings({"port": 9001}).port == 9001


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert load_settings({"home": Path("~/models")}).home == Path("/somewhere/models")


def test_an_unknown_variable_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIERZO_THREAD", "2")
    with pytest.raises(SettingError, match="CIERZO_THREAD .*did you mean CIERZO_THREADS"):
        load_settings()


def test_a_bad_value_is_quoted_with_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIERZO_ISA", "sse9")
    with pytest.raises(SettingError, match=r"CIERZO_ISA is 'sse9'.*'amx'"):
        load_settings()
    monkeypatch.delenv("CIERZO_ISA")
    with pytest.raises(SettingError, match="--token-budget is 1: .*greater than or equal to 16"):
        load_settings({"token_budget": 1})


def test_more_threads_than_cpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = len(allowed_cpus())
    assert load_settings({"threads": limit}).threads == limit
    message = f"--threads is 5000: .*at most {limit}, the CPUs"
    with pytest.raises(SettingError, match=message):
        load_settings({"threads": 5000})
    monkeypatch.setenv("CIERZO_THREADS", "5000")
    with pytest.raises(SettingError, match="CIERZO_THREADS is '?5000"):
        load_settings()


@pytest.mark.parametrize(
    ("memory", "nbytes"),
    [("6GiB", 6 * 2**30), ("800 MB", 800 * 10**6), ("123B", 123), ("25%", 250), ("100 %", 1000)],
)
def test_memory_is_a_size_or_a_share(memory: str, nbytes: int) -> None:
    assert nbytes_of(load_settings({"memory": memory}).memory, 1000) == nbytes


@pytest.mark.parametrize("memory", ["much", "120%", "0", "-1GiB", "1.2.3%", ""])
def test_what_is_no_memory_is_refused(memory: str) -> None:
    with pytest.raises(SettingError, match="--memory is .*a size like 6GiB"):
        load_settings({"memory": memory})


def test_settings_over_settings_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_settings({"port": 9000, "token_budget": 64})
    monkeypatch.setenv("CIERZO_PORT", "9001")  # base was resolved before
    changed = load_settings({"threads": 1, "dtype": None}, base)
    assert (changed.port, changed.token_budget, changed.threads) == (9000, 64, 1)
    with pytest.raises(SettingError, match="--threads is 0"):
        load_settings({"threads": 0}, base)
    with pytest.raises(SettingError, match="--max-waiting is 0"):
        load_settings({"max_waiting": 0})
