"""From nothing to the first token, and what two processes of one model take.

    python -m benchmarks.start MODEL

MODEL is packed first if need be (timed, beside a plain copy of as many bytes). Then processes are
started that load it, answer a prompt of one token and say when and with how much memory: twice one
after another, then two at the same time. PSS counts what is shared by its share.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from cierzo import LLM, SamplingParams, hub
from cierzo.cli.console import megabytes
from cierzo.models.loading import ensure_packed, find_packed
from cierzo.settings import load_settings

COPY_BYTES = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        answer_once(arguments.model, arguments.child)
        return
    source = hub.resolve(arguments.model, home=load_settings().home)
    if find_packed(source) is None:
        pack(source)
    for turn in ("first", "again"):
        [line] = said_by([start(arguments.model)])
        print(f"{turn}: {line}", flush=True)
    for line in said_by([start(arguments.model), start(arguments.model)]):
        print(f"one of two: {line}")


def pack(source: Path) -> None:
    started = time.perf_counter()
    folder = ensure_packed(source)
    seconds = time.perf_counter() - started
    nbytes = (folder / "weights.bin").stat().st_size
    print(f"packed {megabytes(nbytes)} in {seconds:.1f} s: {nbytes / seconds / 1e6:.0f} MB/s")
    rate = copy_rate(source, folder / "copy.tmp")
    print(f"a plain copy of the source, flushed: {rate / 1e6:.0f} MB/s")


def copy_rate(source: Path, target: Path) -> float:
    """Bytes per second of copying up to 1 GiB of a file to the same disk."""
    done = 0
    started = time.perf_counter()
    try:
        with source.open("rb") as read, target.open("wb") as written:
            while done < COPY_BYTES and (chunk := read.read(16 * 2**20)):
                done += written.write(chunk)
            written.flush()
            os.fsync(written.fileno())
        return done / (time.perf_counter() - started)
    finally:
        target.unlink(missing_ok=True)


def start(model: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.start", model, "--child", str(time.time())]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said_by(processes: list[subprocess.Popen[str]]) -> list[str]:
    """What children measured, a line each. Their memory is counted when all have answered."""
    times = [heard(process) for process in processes]
    lines = []
    for process, said in zip(processes, times, strict=True):
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        lines.append(in_words(said | heard(process)))
    for process in processes:
        process.communicate()
    return lines


def heard(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process ended with status {process.wait()} and no answer")
    said: dict[str, Any] = json.loads(line)
    return said


def in_words(said: dict[str, Any]) -> str:
    return (
        f"loaded {said['load_s']:.2f} s after the process was asked for, first token at"
        f" {said['first_token_s']:.2f} s; resident {megabytes(said['rss'])}"
        f" (PSS {megabytes(said['pss'])}, private {megabytes(said['uss'])})"
    )


def answer_once(model: str, asked_at: float) -> None:
    """Stays until its input is closed, so that two of them share memory while they measure."""
    settings = load_settings({"max_model_len": 512, "max_running": 1})
    with LLM(model, settings=settings) as llm:
        load_s = time.time() - asked_at
        llm.generate([[1]], SamplingParams(max_tokens=1))
        first_token_s = time.time() - asked_at
        print(json.dumps({"load_s": load_s, "first_token_s": first_token_s}), flush=True)
        sys.stdin.readline()
        memory = psutil.Process().memory_full_info()
        said = {name: getattr(memory, name) for name in ("rss", "pss", "uss")}
        print(json.dumps(said), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
