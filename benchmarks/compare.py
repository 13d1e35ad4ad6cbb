"""Our speed beside llama.cpp's: same machine, same threads, same GGUF file, in alternation.

    python -m benchmarks.compare [MODEL] [--threads N] [--rounds 5]

MODEL is a name or a GGUF file. Prefill of 512 tokens, then 128 tokens decoded after them, one
sequence; medians over the rounds. llama.cpp is llama-cpp-python's from .venv-bench, or the
llama-bench program that LLAMA_BENCH names. Writes benchmarks/results/llama-cpp-<date>.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from cierzo import hub, kernels
from cierzo.settings import load_settings

ROOT = Path(__file__).parents[1]
PROMPT, GENERATE = 512, 128
METRICS = ("prefill_tok_s", "decode_tok_s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=hub.DEFAULT_MODEL)
    parser.add_argument("--threads", type=int, default=kernels.num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model = gguf_of(arguments.model)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    loads: list[float] = []
    for turn in range(arguments.rounds):
        print(f"→ round {turn + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
        loads.append(round(os.getloadavg()[0], 1))
        ours.append(run_cierzo(model, arguments.threads))
        theirs.append(run_llama_cpp(model, arguments.threads))
    result = {
        "command": "make bench",
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        "threads": arguments.threads,
        "model": model.name,
        "prompt": PROMPT,
        "generate": GENERATE,
        "llama_cpp": llama_cpp_version(),
        "load_average": loads,
        "cierzo": summary(ours),
        "llama.cpp": summary(theirs),
        "ratio": {metric: paired_ratios(ours, theirs, metric) for metric in METRICS},
    }
    page = as_markdown(result)
    stem = ROOT / "benchmarks" / "results" / f"llama-cpp-{result['date']}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    stem.with_suffix(".md").write_text(page)
    print(page)


def gguf_of(name: str) -> Path:
    """The GGUF file of a model, fetched if need be: the format that both engines read."""
    home = load_settings().home
    path = Path(name) if Path(name).exists() else hub.pull(name, home=home).path
    if path.suffix != ".gguf":
        raise SystemExit(f"{path} is not a GGUF file, and llama.cpp reads nothing else: name one")
    return path


def run_cierzo(model: Path, threads: int) -> dict[str, Any]:
    """One round of ours. One repetition: the rounds are the repetitions."""
    command = [sys.executable, "-m", "cierzo", "bench", str(model), "--json", "--batch", "1"]
    command += ["--prompt", str(PROMPT), "--generate", str(GENERATE), "--threads", str(threads)]
    printed = run([*command, "--repeat", "1"])
    batch = printed["batches"][0]
    return {metric: batch[metric] for metric in METRICS}


def run_llama_cpp(model: Path, threads: int) -> dict[str, Any]:
    """One round of llama.cpp, with the spinning threads that suit it best."""
    if program := os.environ.get("LLAMA_BENCH"):
        return run_llama_bench(program, model, threads)
    python = ROOT / ".venv-bench" / "bin" / "python"
    script = ROOT / "benchmarks" / "llama_speed.py"
    command = [str(python), str(script), str(model), "--threads", str(threads)]
    measured: dict[str, Any] = run([*command, "--prompt", str(PROMPT), "--generate", str(GENERATE)])
    return measured


def run_llama_bench(program: str, model: Path, threads: int) -> dict[str, Any]:
    """Prefill at depth 0; decode after the prompt. The faster of its two attention paths."""
    common = [program, "-m", str(model), "-t", str(threads), "-r", "1", "-o", "json", "-fa", "0,1"]
    prefill = run([*common, "-p", str(PROMPT), "-n", "0"])
    decode = run([*common, "-p", "0", "-n", str(GENERATE), "-d", str(PROMPT)])
    return {
        "prefill_tok_s": max(row["avg_ts"] for row in prefill),
        "decode_tok_s": max(row["avg_ts"] for row in decode),
    }


def run(command: list[str]) -> Any:
    """The JSON that a command prints. OpenMP threads spin and stay put, as llama.cpp likes best."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "active", "OMP_PROC_BIND": "true"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"failed with status {done.returncode}: {' '.join(command)}")
    return json.loads(done.stdout)


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and range of each metric."""
    result: dict[str, Any] = {}
    for metric in METRICS:
        values = sorted(round_[metric] for round_ in rounds)
        result[metric] = round(statistics.median(values), 1)
        result[metric.replace("tok_s", "range")] = [round(values[0], 1), round(values[-1], 1)]
    return result


def paired_ratios(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], metric: str
) -> dict[str, float]:
    """Ours over theirs, round by round: a machine that slows down slows down both."""
    ratios = sorted(o[metric] / t[metric] for o, t in zip(ours, theirs, strict=True))
    values = {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}
    return {name: round(value, 2) for name, value in values.items()}


def as_markdown(result: dict[str, Any]) -> str:
    lines = [
        f"# {result['model']} beside llama.cpp, {result['date']}",
        "",
        f"`{result['command']}`, commit {result['commit']}, {result['machine']},",
        f"{result['threads']} threads; {result['llama_cpp']}.",
        f"Prompt of {result['prompt']} tokens, then {result['generate']} decoded.",
        f"Load average before each round: {', '.join(map(str, result['load_average']))}.",
        "Medians of alternating rounds in tokens per second, ratio by round, ranges in brackets.",
        "",
        "| | Cierzo | llama.cpp | ratio |",
        "|---|---|---|---|",
    ]
    for metric in METRICS:
        ours, theirs = result["cierzo"], result["llama.cpp"]
        span, ratio = metric.replace("tok_s", "range"), result["ratio"][metric]
        lines.append(
            f"| {metric.removesuffix('_tok_s')} | {ours[metric]} ({ours[span][0]}–{ours[span][1]})"
            f" | {theirs[metric]} ({theirs[span][0]}–{theirs[span][1]})"
            f" | {ratio['median']} ({ratio['least']}–{ratio['most']}) |"
        )
    return "\n".join(lines) + "\n"


def commit() -> str:
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return shown.stdout.strip() or "unknown"


def machine() -> str:
    """The class of machine, in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} CPUs, {kernels.isa()}"


def llama_cpp_version() -> str:
    if program := os.environ.get("LLAMA_BENCH"):
        return f"llama.cpp's {Path(program).name}"
    return (ROOT / "benchmarks" / "requirements.txt").read_text().strip() + " built natively"


if __name__ == "__main__":
    main()
