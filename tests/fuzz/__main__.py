"""`make fuzz`: damaged files, hostile native calls and hostile bodies, under ASan and UBSan.

Each target's inputs run in a worker process. A finding is any end but success or a CierzoError:
another exception, a crash, a sanitizer's report, a hang, too much memory. Findings and their
inputs are kept in build/fuzz; the exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import psutil

from tests.fuzz.sanitized import ROOT, build_module, environment

TARGETS = {  # share of the time
    "checkpoints": 3,
    "packed_folders": 2,
    "tokenizer_files": 2,
    "native": 3,
    "chat_bodies": 2,
}
MAX_CPU_S = 15.0
MAX_WALL_S = 90.0
OUT = ROOT / "build" / "fuzz"


@dataclass(slots=True)
class Tally:
    """What one target's inputs came to. `findings` maps a cause to the numbers of its inputs."""

    ran: int = 0
    refused: int = 0
    seconds: float = 0.0
    findings: dict[str, list[int]] = field(default_factory=dict)


def main() -> int:
    options = _options()
    print("→ building the kernels with sanitizers (a few minutes the first time)", flush=True)
    module = build_module()
    if options.tests:
        command = [sys.executable, "-m", "pytest", "-p", "tests.fuzz.sanitized"]
        env = environment(module, limited=False)
        return subprocess.call([*command, *options.tests], cwd=ROOT, env=env)
    targets = [options.target] if options.target else list(TARGETS)
    weights = sum(TARGETS[name] for name in targets)
    tallies = {}
    for name in targets:
        seconds = options.seconds * TARGETS[name] / weights
        fuzz = Fuzz(name, options.seed, environment(module, limited=True))
        tallies[name] = fuzz.run(options.first, options.count, seconds)
    return _summary(tallies, options.seed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--seed", default="0", help="another seed, other inputs")
    parser.add_argument("--target", choices=TARGETS, help="this one only")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, default=10**9, help="how many inputs at most")
    parser.add_argument(
        "--tests", nargs=argparse.REMAINDER, help="run pytest with these arguments instead"
    )
    return parser.parse_args()


class Fuzz:
    """One target: keeps a worker at work until the time or the inputs are used up."""

    def __init__(self, target: str, seed: str, env: dict[str, str]) -> None:
        self._target = target
        self._seed = seed
        self._env = {**env, "HF_HUB_OFFLINE": "1"}
        self._tally = Tally()
        self._errors = OUT / f"{target}.stderr"
        self._work = OUT / f"{target}.work"

    def run(self, first: int, count: int, seconds: float) -> Tally:
        OUT.mkdir(parents=True, exist_ok=True)
        number, last, left = first, first + count, seconds
        while number < last and left > 0:
            number, spent = self._one_worker(number, last - number, left)
            left -= spent
            self._tally.seconds += spent
        shutil.rmtree(self._work, ignore_errors=True)
        return self._tally

    def _one_worker(self, first: int, count: int, seconds: float) -> tuple[int, float]:
        """The number of the next input, and the seconds spent on inputs."""
        command = [sys.executable, "-m", "tests.fuzz.worker", self._target, self._seed]
        command += [str(first), str(count), str(seconds), str(self._work)]
        with self._errors.open("wb") as errors:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self._env, stdout=subprocess.PIPE, stderr=errors
            )
        reports = Reports(process)
        number, began = first - 1, time.monotonic()
        try:
            while True:
                report = reports.next()
                match report["event"]:
                    case "ready":
                        began = time.monotonic()
                    case "start":
                        number = report["number"]
                    case "ran":
                        self._tally.ran += 1
                    case "refused":
                        self._tally.refused += 1
                    case "finding":
                        self._keep(number, report["cause"], report["trace"])
                    case "end":
                        return number + 1, max(time.monotonic() - began, 0.01)
                    case "hang" | "crash":
                        trace = self._errors.read_text(errors="replace")
                        if number < first:
                            raise SystemExit(f"{self._target} does not start:\n{trace[-4000:]}")
                        cause = _crash_cause(trace) if report["event"] == "crash" else "a hang"
                        self._keep(number, cause, trace[-20000:])
                        return number + 1, time.monotonic() - began
        finally:
            process.kill()
            process.wait()

    def _keep(self, number: int, cause: str, trace: str) -> None:
        numbers = self._tally.findings.setdefault(cause, [])
        numbers.append(number)
        if len(numbers) > 1:
            return
        place = OUT / f"{self._target}-{self._seed}-{number}"
        shutil.rmtree(place, ignore_errors=True)
        if (self._work / "input").is_dir():
            shutil.copytree(self._work / "input", place)
        place.mkdir(exist_ok=True)
        (place / "report.txt").write_text(f"{self._again(number)}\n\n{cause}\n\n{trace}")
        print(f"  {self._target} {number}: {cause}", flush=True)

    def _again(self, number: int) -> str:
        return (
            f"python -m tests.fuzz --target {self._target} --seed {self._seed} "
            f"--first {number} --count 1"
        )


class Reports:
    """A worker's lines; made-up ones say that it crashed or hangs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._process = process
        self._pipe = process.stdout.fileno()
        self._received = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe, selectors.EVENT_READ)

    def next(self) -> dict[str, Any]:
        began, cpu_began = time.monotonic(), self._cpu_s()
        while b"\n" not in self._received:
            if self._selector.select(0.5):
                data = os.read(self._pipe, 1 << 16)
                if not data:
                    return {"event": "crash"}
                self._received += data
            elif time.monotonic() - began > MAX_WALL_S or self._cpu_s() - cpu_began > MAX_CPU_S:
                return {"event": "hang"}
        line, self._received = self._received.split(b"\n", 1)
        report: dict[str, Any] = json.loads(line)
        return report

    def _cpu_s(self) -> float:
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)


def _crash_cause(trace: str) -> str:
    marks = ("SUMMARY:", "runtime error:", "hard rss limit", "panicked at", "terminate called")
    for line in trace.splitlines():
        if any(mark in line for mark in marks):
            return "crash: " + re.sub(r"0x[0-9a-f]{6,}|==\d+==", "…", line)[:200]
    return "crash: the process ended without a word"


def _summary(tallies: dict[str, Tally], seed: str) -> int:
    print(
        f"\n{'target':<16} {'inputs':>7} {'ran':>7} {'refused':>8} {'seconds':>8} {'findings':>9}"
    )
    for name, t in tallies.items():
        hits = sum(len(numbers) for numbers in t.findings.values())
        inputs = t.ran + t.refused + hits
        counts = f"{inputs:>7} {t.ran:>7} {t.refused:>8} {t.seconds:>8.1f} {len(t.findings):>9}"
        print(f"{name:<16} {counts}")
    found = [(name, cause, n) for name, t in tallies.items() for cause, n in t.findings.items()]
    for name, cause, numbers in found:
        first = f"{OUT}/{name}-{seed}-{numbers[0]}"
        print(f"\n{name}: {cause}\n  {len(numbers)} inputs, the first is {first}")
    print(f"\nseed {seed}: {'no findings' if not found else f'{len(found)} different findings'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
