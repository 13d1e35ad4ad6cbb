"""Cierzo at each of the works given, through its engine: works.py says how it is called."""

from __future__ import annotations

import argparse
import json
import resource
import time

import psutil

from benchmarks.rivals.works import Work, works_from_json
from cierzo import LLM
from cierzo.cli.speed import Bench, Load
from cierzo.engine.engine import IDLE_S
from cierzo.settings import load_settings


def wait_until_idle() -> None:
    """Return when the KV cache's memory is ready, as the rivals' is when they are loaded: an engine
    without work sees to that (record 0044)."""
    process, used_s = psutil.Process(), -1.0
    while (now_s := sum(process.cpu_times()[:2])) - used_s > 0.05:
        used_s = now_s
        time.sleep(1.5 * IDLE_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--works", type=works_from_json, required=True)
    parser.add_argument("--isa")
    arguments = parser.parse_args()
    works: list[Work] = arguments.works
    # Two tokens at least, so that a prefill can be asked for its first.
    length = max(work.context for work in works) + 2
    most = max(work.batch for work in works)
    settings = load_settings(
        {
            "threads": arguments.threads,
            "isa": arguments.isa,
            "max_model_len": length,
            "max_running": most,
            "max_waiting": most,
            # Random weights fall into loops that every guess gets right: no rate to compare with.
            "speculation": False,
        }
    )
    started = time.perf_counter()
    with LLM(arguments.model, settings=settings) as llm:
        load_s = time.perf_counter() - started
        wait_until_idle()
        tok_s = []
        for work in works:
            load = Load(work.batch, work.prompt, max(work.generate, 2), work.cached)
            bench = Bench(llm.engine, llm.config.vocab_size, load)
            tok_s.append(bench.prefill_tok_s() if work.kind == "prefill" else bench.decode_tok_s())
        resident = psutil.Process().memory_info().rss
    result = {
        "tok_s": tok_s,
        "load_s": load_s,
        "resident_bytes": resident,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
