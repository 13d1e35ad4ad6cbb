"""No source file grows past what one sitting can read."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 600
FILES = sorted(
    path
    for folder in ("src", "native", "tests", "examples", "benchmarks")
    for pattern in ("*.py", "*.h", "*.cpp")
    for path in (ROOT / folder).rglob(pattern)
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_over_the_limit(path: Path) -> None:
    num_lines = len(path.read_text().splitlines())
    assert num_lines <= MAX_LINES, f"{num_lines} lines: split it by what its parts do"
