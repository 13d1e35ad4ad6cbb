"""`cierzo version` tells what would run, and refuses what would not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cierzo import kernels
from cierzo.cli import run


@pytest.fixture(autouse=True)
def unchanged_kernels() -> Iterator[None]:
    isa, threads = kernels.isa(), kernels.num_threads()
    yield
    kernels.set_isa(isa)
    kernels.set_num_threads(threads)


def test_the_instruction_set_is_the_one_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIERZO_ISA", "portable")
    assert run(["version"]) == 0
    assert capsys.readouterr().out.strip().endswith(", portable")


@pytest.mark.parametrize(("name", "value"), [("CIERZO_ISA", "nope"), ("CIERZO_IAS", "portable")])
def test_settings_are_checked(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert run(["version"]) == 2
    assert name in capsys.readouterr().err
