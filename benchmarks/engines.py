"""The engines of the comparison, each a process of its own that is gone before the next one starts.

Which ones take part is a question of what is there: llama.cpp in .venv-bench (or LLAMA_BENCH, the
path of a llama-bench), others of its kind (IK_LLAMA_BENCH), builds for lower instruction sets
(.venv-bench-<isa>), vLLM in .venv-vllm (VLLM=1).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.cases import Case
from benchmarks.rivals.works import Work, works_to_json

ROOT = Path(__file__).parents[1]
RIVALS = ROOT / "benchmarks" / "rivals"


@dataclass(frozen=True, slots=True)
class Measured:
    """Tokens per second by work (None: this engine has no such thing), and what it took to load."""

    tok_s: tuple[float | None, ...]
    load_s: float | None = None
    peak_bytes: int | None = None
    resident_bytes: int | None = None


class Engine(Protocol):
    @property
    def name(self) -> str: ...

    def can_run(self, case: Case) -> bool: ...

    def measure(self, case: Case, model: Path, threads: int) -> Measured: ...


class Cierzo:
    name = "Cierzo"

    def can_run(self, case: Case) -> bool:
        return True

    def measure(self, case: Case, model: Path, threads: int) -> Measured:
        command = [sys.executable, "-m", "benchmarks.cierzo_speed", str(model)]
        command += ["--threads", str(threads), "--works", works_to_json(case.works)]
        return _measured(run([*command, *(["--isa", case.isa] if case.isa else [])]))


@dataclass
class LlamaCpp:
    """Through its C API, from an environment of its own: one for each instruction set."""

    name: str = "llama.cpp"
    _flash: dict[Case, str] = field(default_factory=dict)

    def can_run(self, case: Case) -> bool:
        return self._python(case).exists()

    def measure(self, case: Case, model: Path, threads: int) -> Measured:
        """The first time both attention paths are measured, later the faster one of each work."""
        command = [str(self._python(case)), "-m", "benchmarks.rivals.llama_speed", str(model)]
        command += ["--threads", str(threads), "--works", works_to_json(case.works)]
        printed = run([*command, "--flash", self._flash.get(case, "")])
        self._flash[case] = ",".join(printed["flash"])
        return _measured(printed)

    def _python(self, case: Case) -> Path:
        suffix = f"-{case.isa}" if case.isa else ""
        return ROOT / f".venv-bench{suffix}" / "bin" / "python"


@dataclass(frozen=True)
class LlamaBench:
    """A llama-bench by path: single sequences only. The best of its settings counts."""

    name: str
    program: str
    settings: tuple[str, ...]  # each a list of flags

    def can_run(self, case: Case) -> bool:
        return case.isa is None

    def measure(self, case: Case, model: Path, threads: int) -> Measured:
        command = [self.program, "-m", str(model), "-t", str(threads), "-r", "1", "-o", "json"]
        return Measured(tuple(self._best_tok_s(command, work) for work in case.works))

    def _best_tok_s(self, command: Sequence[str], work: Work) -> float | None:
        rates = [self._tok_s([*command, *flags.split()], work) for flags in self.settings]
        return max((rate for rate in rates if rate is not None), default=None)

    def _tok_s(self, command: Sequence[str], work: Work) -> float | None:
        if work.batch > 1:
            return None
        if work.kind == "prefill":
            wanted, depth = ["-p", str(work.prompt), "-n", "0"], work.cached
        else:
            wanted, depth = ["-p", "0", "-n", str(work.generate)], work.cached + work.prompt
        if depth and self.name != "llama.cpp":
            depth = 0  # ik_llama.cpp's has no -d: measured without the context, in its favour
        rows = run([*command, *wanted, *(["-d", str(depth)] if depth else [])])
        return max(float(row["avg_ts"]) for row in rows)


class Vllm:
    """bf16 from a Hugging Face folder of the same shape, as it has no 4-bit kernels for CPUs."""

    name = "vLLM (bf16)"

    def can_run(self, case: Case) -> bool:
        return case.is_fast and case.isa is None and case.threads is None

    def measure(self, case: Case, model: Path, threads: int) -> Measured:
        from benchmarks.make_hf_folder import ensure_hf_folder

        folder = ensure_hf_folder(model.parent, case.model)
        python = ROOT / ".venv-vllm" / "bin" / "python"
        command = [str(python), "-m", "benchmarks.rivals.vllm_speed", str(folder)]
        command += ["--threads", str(threads), "--works", works_to_json(case.works)]
        return _measured(run(command))


def engines() -> list[Engine]:
    """Those that are there, ours first."""
    found: list[Engine] = [Cierzo()]
    if program := os.environ.get("LLAMA_BENCH"):
        found.append(LlamaBench("llama.cpp", program, ("-fa 0,1",)))
    else:
        found.append(LlamaCpp())
    if program := os.environ.get("IK_LLAMA_BENCH"):
        found.append(LlamaBench("ik_llama.cpp", program, ("-fa 0,1 -rtr 0", "-fa 0,1 -rtr 1")))
    if os.environ.get("VLLM"):
        found.append(Vllm())
    return found


def versions() -> dict[str, str]:
    """What the rivals call themselves."""
    pinned = (RIVALS / "llama_cpp.txt").read_text().split()
    found = {"llama.cpp": " ".join(pinned) + ", built natively"}
    if program := os.environ.get("LLAMA_BENCH"):
        found["llama.cpp"] = Path(program).name
    if program := os.environ.get("IK_LLAMA_BENCH"):
        found["ik_llama.cpp"] = Path(program).name
    if os.environ.get("VLLM"):
        found["vLLM (bf16)"] = " ".join((RIVALS / "vllm.txt").read_text().split())
    return found


def run(command: Sequence[str]) -> Any:
    """The JSON that a command prints last. OpenMP threads spin and stay put, as llama.cpp likes
    best. Raises SystemExit, with what it said, when the command fails."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "active", "OMP_PROC_BIND": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode != 0:
        said = done.stderr[-4000:]
        raise SystemExit(f"failed with status {done.returncode}: {' '.join(command)}\n{said}")
    start = done.stdout.rfind("\n{")
    return json.loads(done.stdout if start < 0 else done.stdout[start:])


def _measured(printed: dict[str, Any]) -> Measured:
    return Measured(
        tuple(printed["tok_s"]),
        printed.get("load_s"),
        printed.get("peak_bytes"),
        printed.get("resident_bytes"),
    )
