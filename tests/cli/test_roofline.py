"""The machine's rates, kept, read back and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cierzo import kernels
from cierzo.cli import run
from cierzo.cli.roofline import (
    MultiplyRate,
    ReadRate,
    Roofline,
    measure_roofline,
    read_roofline,
    thread_counts,
)
from cierzo.cli.roofline_plot import PlotPoint, draw, points_of
from cierzo.errors import SettingError

MACHINE = Roofline(
    "a machine",
    (ReadRate(1, 2**20, 8e9), ReadRate(1, 2**24, 4e9), ReadRate(2, 2**24, 6e9)),
    (MultiplyRate("avx2", "f32", 1, 1e11), MultiplyRate("avx2", "f32", 2, 2e11)),
)


def test_a_working_set_lies_between_those_measured() -> None:
    assert MACHINE.read_bytes_s(1, 2**22) == pytest.approx(6e9)
    assert MACHINE.read_bytes_s(1, 1) == 8e9
    assert MACHINE.read_bytes_s(1, 2**40) == 4e9
    with pytest.raises(SettingError, match="not measured with 3 threads"):
        MACHINE.read_bytes_s(3, 2**20)


def test_rates_survive_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(MACHINE.to_json()))
    assert read_roofline(path) == MACHINE
    path.write_text("[]")
    with pytest.raises(SettingError, match="holds no rates"):
        read_roofline(path)
    with pytest.raises(SettingError, match="cannot be read"):
        read_roofline(tmp_path / "none.json")


def test_measuring_leaves_the_kernels_as_they_were() -> None:
    before = kernels.num_threads(), kernels.isa()
    measured = measure_roofline([1], kernels.available_isas()[:1], sizes=[2**20])
    assert (kernels.num_threads(), kernels.isa()) == before
    assert measured.ops_s("portable", "f32", 1) > 0
    assert measured.ops_s("portable", "amx_bf16", 1) == 0
    assert measured.read_bytes_s(1, 2**20) > 0


def test_threads_are_doubled_up_to_all() -> None:
    assert thread_counts(1) == [1]
    assert thread_counts(2) == [1, 2]
    assert thread_counts(6) == [1, 2, 4, 6]


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    row = {"ops_per_byte": 3.5, "ops_s": 1e10}
    result = {"batches": [{"batch": 4, "prompt": 16, "prefill": row, "decode": row}]}
    points = points_of(result)
    assert [p.work for p in points] == ["prefill 16 × 4", "decode × 4"]
    path = tmp_path / "out.png"
    draw(path, MACHINE, [*points, PlotPoint("decode × 4", "another", 3.5, 5e9)], threads=2)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_bench_wants_a_model_or_the_machine() -> None:
    assert run(["bench"]) == 2
    assert run(["bench", "model", "--roofline"]) == 2
