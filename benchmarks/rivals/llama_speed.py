"""llama.cpp at each of the works given, called through its C API so that Python costs nothing that
shows. Runs in .venv-bench (works.py says how it is called) and knows nothing of Cierzo.

`--flash off,on,off` gives the attention path to take for each work; "both" measures both and
reports the faster, with its name. Tokens are random, and nobody samples: llama.cpp's own
benchmarks do the same.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from typing import Any

import llama_cpp

from benchmarks.rivals.works import Work, works_from_json

BATCH = 2048
FLASH = {"off": 0, "on": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--works", type=works_from_json, required=True)
    parser.add_argument("--flash", default="")
    arguments = parser.parse_args()
    paths = arguments.flash.split(",") if arguments.flash else ["both"] * len(arguments.works)
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    started = time.perf_counter()
    model = llama_cpp.llama_model_load_from_file(
        arguments.model.encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise SystemExit(f"llama.cpp cannot load {arguments.model}")
    load_s = time.perf_counter() - started
    tok_s, chosen = [], []
    for work, path in zip(arguments.works, paths, strict=True):
        rates = {
            name: measure(model, work, arguments.threads, FLASH[name])
            for name in (FLASH if path == "both" else [path])
        }
        best = max(rates, key=rates.__getitem__)
        tok_s.append(rates[best])
        chosen.append(best)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"tok_s": tok_s, "flash": chosen, "load_s": load_s, "peak_bytes": peak}))


def measure(model: Any, work: Work, threads: int, flash: int) -> float:
    """Tokens per second, after a warm-up of the same shape."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = work.batch * (work.context + 8)
    params.n_batch, params.n_ubatch = BATCH, 512
    params.n_seq_max = work.batch
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = flash
    run = Run(llama_cpp.llama_init_from_model(model, params), model, work)
    if work.kind == "prefill":
        run.prefill()
        rate = run.prefill()
    else:
        run.decode(min(work.generate, 4))
        rate = run.decode(work.generate)
    run.close()
    return rate


class Run:
    """One context under one work."""

    def __init__(self, context: Any, model: Any, work: Work) -> None:
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self._work = work
        vocab = llama_cpp.llama_model_get_vocab(model)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
        self._chooser = random.Random(0)
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self._compute([(0, position) for position in range(work.cached)])

    def close(self) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)

    def prefill(self) -> float:
        work = self._work
        self._forget()
        started = time.perf_counter()
        self._compute(self._new_prompts())
        return work.batch * work.prompt / (time.perf_counter() - started)

    def decode(self, generate: int) -> float:
        work = self._work
        self._forget()
        self._compute(self._new_prompts())
        first = work.cached + work.prompt
        started = time.perf_counter()
        for position in range(first, first + generate):
            self._compute([(sequence, position) for sequence in range(work.batch)])
        return work.batch * generate / (time.perf_counter() - started)

    def _forget(self) -> None:
        """All but the common prefix, which only single sequences have."""
        for sequence in range(self._work.batch):
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, self._work.cached, -1)

    def _new_prompts(self) -> list[tuple[int, int]]:
        work = self._work
        positions = range(work.cached, work.cached + work.prompt)
        return [(sequence, p) for sequence in range(work.batch) for p in positions]

    def _compute(self, places: list[tuple[int, int]]) -> None:
        """Random tokens at these (sequence, position); logits for the last of each sequence."""
        last = dict(places)
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            for i, (sequence, position) in enumerate(part):
                self._batch.token[i] = self._chooser.randrange(self._n_vocab)
                self._batch.pos[i] = position
                self._batch.n_seq_id[i] = 1
                self._batch.seq_id[i][0] = sequence
                self._batch.logits[i] = last[sequence] == position
            self._batch.n_tokens = len(part)
            status = llama_cpp.llama_decode(self._context, self._batch)
            if status != 0:
                raise SystemExit(f"llama_decode failed with status {status}")
        if places:
            llama_cpp.llama_synchronize(self._context)


if __name__ == "__main__":
    main()
