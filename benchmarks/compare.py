"""Ours beside its rivals: same machine, same threads, same files, taking turns.

    python -m benchmarks.compare [--set fast|all] [--models DIR] [--rounds 5] [--only TEXT]

Every round runs each engine once, in a process that has the machine for itself; medians and ranges
over the rounds, after one round that only warms up (where there is more than one). After each case
writes benchmarks/results/<date>-<machine>.json and .png, which `python -m benchmarks.readme_table`
makes the README's table from; cases that stood there before, with dates of their own, stay.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, Case
from benchmarks.engines import ROOT, Engine, Measured, engines, versions
from benchmarks.make_checkpoint import checkpoints_folder, ensure_checkpoint
from benchmarks.rivals.works import Work
from cierzo import kernels
from cierzo.cli.floors import (
    ModelBytes,
    Rates,
    Reached,
    decode_reached,
    model_bytes,
    prefill_reached,
    rates_for,
)
from cierzo.cli.roofline import Roofline, machine_class, measure_roofline, thread_counts
from cierzo.cli.roofline_plot import PlotPoint, draw
from cierzo.cli.speed import Load
from cierzo.config import ModelConfig
from cierzo.machine import physical_cores
from cierzo.models.loading import ensure_packed
from cierzo.models.packed_folder import read_manifest

RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--set", choices=("fast", "all"), default="fast", dest="chosen")
    parser.add_argument("--models", type=Path, default=checkpoints_folder())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose title has this in it")
    parser.add_argument("--out", type=Path, help="the result's path, without its ending")
    arguments = parser.parse_args()
    cases = [
        case
        for case in CASES
        if (case.is_fast or arguments.chosen == "all") and arguments.only in case.title
    ]
    taking_part = engines()
    threads = physical_cores()
    _say("measuring the machine")
    machine = measure_roofline(thread_counts(threads), kernels.available_isas())
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine_class(),
        "threads": threads,
        "roofline": machine.to_json(),
    }
    stem = arguments.out or RESULTS / f"{result['date']}-{slug(machine_class())}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    file = stem.with_suffix(".json")
    before = json.loads(file.read_text()) if file.exists() else {"cases": [], "rivals": {}}
    measured, result["rivals"] = before["cases"], before["rivals"] | versions()
    for case in cases:
        found = run_case(case, taking_part, arguments.models, arguments.rounds, machine)
        measured = merged(measured, found)
        whole = result | {"cases": measured}
        part = stem.with_suffix(".part")  # whole, or as before, whenever a run is cut off
        part.write_text(json.dumps(whole, indent=1) + "\n")
        part.replace(file)
        draw(stem.with_suffix(".png"), machine, points(whole), threads)
        _say(f"written: {stem}.json, .png")


def merged(before: Sequence[dict[str, Any]], found: dict[str, Any]) -> list[dict[str, Any]]:
    """Cases in the order of `CASES`; one that was measured again counts as it is now."""
    order = [(case.title, [work.title for work in case.works]) for case in CASES]
    known = [case for case in [*before, found] if _place(case) in order]
    by_place = {order.index(_place(case)): case for case in known}
    return [by_place[place] for place in sorted(by_place)]


def _place(case: dict[str, Any]) -> tuple[str, list[str]]:
    return case["title"], [row["title"] for row in case["works"]]


def run_case(
    case: Case, taking_part: Sequence[Engine], folder: Path, rounds: int, machine: Roofline
) -> dict[str, Any]:
    """Medians and ranges of every engine at every work of one file, beside the floors."""
    model = ensure_checkpoint(folder, case.model, case.quant)
    manifest = read_manifest(ensure_packed(model))
    threads = case.threads or physical_cores()
    able = [engine for engine in taking_part if engine.can_run(case)]
    runs: dict[str, list[Measured]] = {engine.name: [] for engine in able}
    loads = []
    rounds = case.rounds or rounds
    first = 0 if rounds > 1 else 1  # the one that only warms up
    for turn in range(first, rounds + 1):
        _say(f"{case.title}: round {turn} of {rounds}")
        loads.append(round(os.getloadavg()[0], 1))
        for engine in able:
            measured = engine.measure(case, model, threads)
            if turn > 0:
                runs[engine.name].append(measured)
    weights = model_bytes(manifest.entries, manifest.config)
    rates = rates_for(weights, machine, case.isa or kernels.isa(), threads)
    return {
        "title": case.title,
        "model": case.model,
        "quant": case.quant,
        "threads": threads,
        "isa": case.isa or kernels.isa(),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "rounds": rounds,
        "weights_bytes": weights.total,
        "load_average": loads,
        "processes": {name: process_summary(measured) for name, measured in runs.items()},
        "works": [
            work_summary(work, place, runs, manifest.config, weights, rates)
            for place, work in enumerate(case.works)
        ],
    }


def work_summary(
    work: Work,
    place: int,
    runs: dict[str, list[Measured]],
    config: ModelConfig,
    weights: ModelBytes,
    rates: Rates,
) -> dict[str, Any]:
    series = {
        name: [tok_s for m in measured if (tok_s := m.tok_s[place]) is not None]
        for name, measured in runs.items()
    }
    series = {name: values for name, values in series.items() if values}
    ours = series["Cierzo"]
    return {
        "title": work.title,
        "work": asdict(work),
        "tok_s": {name: summary(values) for name, values in series.items()},
        "ratio": {
            name: summary([o / t for o, t in zip(ours, values, strict=True)])
            for name, values in series.items()
            if name != "Cierzo"
        },
        "floor": asdict(floor(work, config, weights, rates, statistics.median(ours))),
    }


def floor(
    work: Work, config: ModelConfig, weights: ModelBytes, rates: Rates, tok_s: float
) -> Reached:
    load = Load(work.batch, work.prompt, work.generate, work.cached)
    beside = prefill_reached if work.kind == "prefill" else decode_reached
    return beside(config, weights, rates, load, tok_s)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and range, with the digits that mean something.

    >>> summary([3.0, 1.0, 2.0])
    {'median': 2.0, 'least': 1.0, 'most': 3.0}
    """
    ordered = sorted(values)
    named = {"median": statistics.median(ordered), "least": ordered[0], "most": ordered[-1]}
    return {name: float(f"{value:.4g}") for name, value in named.items()}


def process_summary(measured: Sequence[Measured]) -> dict[str, float | None]:
    """Loading time and memory of an engine's process: medians."""

    def middle(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    return {
        "load_s": middle([m.load_s for m in measured]),
        "peak_bytes": middle([m.peak_bytes for m in measured]),
        "resident_bytes": middle([m.resident_bytes for m in measured]),
    }


def points(result: dict[str, Any]) -> list[PlotPoint]:
    """The runs at all threads and the best instruction set, for the roofline."""
    found = []
    for case in result["cases"]:
        if case["threads"] != result["threads"] or case["isa"] != kernels.available_isas()[-1]:
            continue
        for row in case["works"]:
            at, name = row["floor"], f"{row['title']}, {case['model']} {case['quant']}"
            ours = row["tok_s"]["Cierzo"]["median"]
            found += [
                PlotPoint(name, engine, at["ops_per_byte"], at["ops_s"] * rate["median"] / ours)
                for engine, rate in row["tok_s"].items()
            ]
    return found


def slug(text: str) -> str:
    """`Intel(R) Xeon(R) Processor, 2 CPUs, amx` → `intel-xeon-2-cpus-amx`."""
    words = text.replace("(R)", "").replace("Processor", "").replace("(TM)", "")
    letters = "".join(c if c.isalnum() else " " for c in words.lower())
    return "-".join(letters.split())


def commit() -> str:
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return shown.stdout.strip() or "unknown"


def _say(text: str) -> None:
    print(f"→ {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
