"""The comparison's arithmetic and its table, on numbers that can be checked by eye."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import readme_table
from benchmarks.cases import CASES, DIVIDENDS
from benchmarks.compare import merged, points, process_summary, slug, summary, work_summary
from benchmarks.engines import LlamaBench, Measured
from benchmarks.make_checkpoint import QUANTS, SHAPES
from benchmarks.rivals.works import Work, works_from_json, works_to_json
from cierzo import kernels
from cierzo.cli.floors import ModelBytes, Rates
from tests.cli.test_floors import DENSE

PREFILL = Work("prefill", 512)


def test_every_case_can_be_made() -> None:
    assert {case.model for case in CASES} <= set(SHAPES)
    assert {case.quant for case in CASES} <= set(QUANTS)
    assert {name for pair in DIVIDENDS for name in pair} <= {case.model for case in CASES}
    assert len({(case.title, case.works) for case in CASES}) == len(CASES)


def test_works_travel_as_json() -> None:
    works = [PREFILL, Work("decode", 64, batch=32, generate=64), Work("prefill", 60, cached=400)]
    assert works_from_json(works_to_json(works)) == works
    titles = [work.title for work in works]
    assert titles == ["prefill 512", "32 decodes at once", "60 new tokens behind 400"]
    assert Work("decode", 512, generate=8).title == "decode at 512"


def test_rounds_become_medians_ranges_and_paired_ratios() -> None:
    runs = {
        "Cierzo": [Measured((10.0,)), Measured((30.0,)), Measured((20.0,))],
        "another": [Measured((5.0,)), Measured((10.0,)), Measured((20.0,))],
        "unable": [Measured((None,))] * 3,
    }
    weights, rates = ModelBytes(1000, 0, 0, False), Rates(1e6, 1e6, 1e6)
    row = work_summary(PREFILL, 0, runs, DENSE, weights, rates)
    assert row["tok_s"] == {
        "Cierzo": {"median": 20.0, "least": 10.0, "most": 30.0},
        "another": {"median": 10.0, "least": 5.0, "most": 20.0},
    }
    assert row["ratio"] == {"another": {"median": 2.0, "least": 1.0, "most": 3.0}}
    assert row["floor"]["fraction"] == pytest.approx(20.0 / row["floor"]["floor_tok_s"], rel=0.01)


def test_numbers_keep_the_digits_that_mean_something() -> None:
    assert summary([1234.567])["median"] == 1235
    assert summary([0.123456])["median"] == 0.1235
    assert process_summary([Measured((), 2.0), Measured((), 4.0)]) == {
        "load_s": 3.0,
        "peak_bytes": None,
        "resident_bytes": None,
    }


def test_a_machine_has_a_name_for_files() -> None:
    assert slug("Intel(R) Xeon(R) Processor, 2 CPUs, amx") == "intel-xeon-2-cpus-amx"


def test_a_llama_bench_is_asked_for_the_same_work(tmp_path: Path) -> None:
    program = tmp_path / "llama-bench"
    program.write_text(
        '#!/bin/sh\necho "$@" >> $0.log\necho \'[{"avg_ts": 3.5}, {"avg_ts": 4.5}]\'\n'
    )
    program.chmod(0o755)
    works = (PREFILL, Work("decode", 64, generate=8), Work("decode", 64, batch=4, generate=8))
    case = CASES[0].__class__("smollm2", "q4_0", works)
    bench = LlamaBench("llama.cpp", str(program), ("-fa 0,1",))
    assert bench.measure(case, tmp_path / "m.gguf", 2).tok_s == (4.5, 4.5, None)
    asked = (tmp_path / "llama-bench.log").read_text().splitlines()
    assert [line.partition("-fa 0,1 ")[2] for line in asked] == ["-p 512 -n 0", "-p 0 -n 8 -d 64"]


RATE = {"median": 200.0, "least": 150.0, "most": 250.0}
SLOW = {"median": 50.0, "least": 40.0, "most": 60.0}


def case_of(
    model: str, ours: dict[str, float], floor_tok_s: float, day: str = "2026-01-02"
) -> dict[str, Any]:
    floor = {"fraction": 0.5, "floor_tok_s": floor_tok_s, "ops_per_byte": 4.0, "ops_s": 100.0}
    row = {
        "title": "decode",
        "work": {"kind": "decode"},
        "tok_s": {"Cierzo": ours, "llama.cpp": SLOW, "other": {**SLOW, "median": 55.0}},
        "ratio": {"llama.cpp": {"median": 4.0}, "other": {"median": 3.6}},
        "floor": floor,
    }
    isa = kernels.available_isas()[-1]
    title = f"{model} q4_0"
    head = {"title": title, "model": model, "quant": "q4_0", "threads": 2, "isa": isa}
    return {
        **head,
        "date": day,
        "commit": "abc",
        "rounds": 5,
        "load_average": [0.1],
        "works": [row],
    }


def result() -> dict[str, Any]:
    return {
        "machine": "a machine",
        "threads": 2,
        "date": "2026-01-02",
        "rivals": {"llama.cpp": "1.0"},
        "cases": [
            case_of("mixtral-mini", RATE, 400.0),
            case_of("dense-mini", SLOW, 100.0, "2026-01-01"),
        ],
    }


def test_the_table_says_what_the_result_says() -> None:
    lines = readme_table.render(result(), "2026-01-02-x").splitlines()
    assert "2026-01-01 and 2026-01-02, commit abc" in lines[0]
    assert (
        "| decode, mixtral-mini q4_0 | **200** (150 to 250) | other 55 (40 to 60) | 3.60 "
        "| 50% of 400 |"
    ) in lines
    assert lines[-1] == (
        "| decode, mixtral-mini over dense-mini | **4.00 ×** | llama.cpp 1.00 ×, other 1.00 × | "
        "| 100% of 4.00 × |"
    )


def test_what_is_measured_again_takes_its_place() -> None:
    def measured(place: int, commit: str) -> dict[str, Any]:
        case = CASES[place]
        works = [{"title": work.title} for work in case.works]
        return {"title": case.title, "commit": commit, "works": works}

    cases: list[dict[str, Any]] = []
    for place, commit in ((3, "a"), (0, "a"), (10, "a"), (3, "b")):  # 0 and 10 are of one file
        cases = merged(cases, measured(place, commit))
    assert cases == [measured(0, "a"), measured(3, "b"), measured(10, "a")]


def test_rivals_stand_under_our_points_by_their_share() -> None:
    found = {(p.work, p.engine): p.ops_s for p in points(result())}
    assert found["decode, mixtral-mini q4_0", "Cierzo"] == 100.0
    assert found["decode, mixtral-mini q4_0", "llama.cpp"] == 25.0


def test_only_what_is_between_the_markers_is_replaced() -> None:
    before = f"# Title\n{readme_table.BEGIN}old\n{readme_table.END}after\n"
    after = readme_table.replaced(before, "new\n")
    assert after == before.replace("old", "new")
    with pytest.raises(SystemExit, match="markers"):
        readme_table.replaced("# Title\n", "new\n")


def test_the_readme_has_the_newest_result(tmp_path: Path) -> None:
    assert readme_table.newest_result(tmp_path) is None
    for name in ("2026-01-02-b", "2026-01-02-a", "other-2027"):
        (tmp_path / f"{name}.json").write_text("{}")
    newest = readme_table.newest_result(tmp_path)
    assert newest is not None and newest.stem == "2026-01-02-b"
    readme = readme_table.README.read_text()
    newest = readme_table.newest_result()
    table = (
        "" if newest is None else readme_table.render(json.loads(newest.read_text()), newest.stem)
    )
    assert readme == readme_table.replaced(readme, table), "run python -m benchmarks.readme_table"
