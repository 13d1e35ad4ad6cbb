"""What the machine says it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from cierzo.machine import free_memory_bytes


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    machine = free_memory_bytes(tmp_path)  # no such files: no container
    assert machine > 0
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("2500\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 700\n")
    assert free_memory_bytes(tmp_path) == 1200
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory_bytes(tmp_path) == pytest.approx(machine, rel=0.5)
