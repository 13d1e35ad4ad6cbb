"""Fixtures: the command line on a store of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cierzo.cli import run

Cli = Callable[[str], str]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command on the test's store; what it printed, or its error."""

    def call(line: str) -> str:
        capsys.readouterr()
        is_done = run([*line.split(), "--data", str(tmp_path)]) == 0
        captured = capsys.readouterr()
        return captured.out if is_done else captured.err

    return call
