"""vLLM on the CPU at each of the works given, in bf16. Runs in .venv-vllm (works.py says how it is
called) and knows nothing of Cierzo. Steps are driven through its offline engine: no server.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import time
from typing import Any

from benchmarks.rivals.works import Work, works_from_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--works", type=works_from_json, required=True)
    arguments = parser.parse_args()
    works: list[Work] = arguments.works
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{arguments.threads - 1}",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    from vllm import LLM

    started = time.perf_counter()
    llm = LLM(
        arguments.folder,
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=max(work.context for work in works) + 16,
        max_num_seqs=max(max(work.batch for work in works), 8),
        enforce_eager=True,
        enable_prefix_caching=True,
    )
    load_s = time.perf_counter() - started
    tok_s = [Run(llm, work).measure() for work in works]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"tok_s": tok_s, "load_s": load_s, "peak_bytes": peak}))


class Run:
    """One work: a warm-up, then the measurement."""

    def __init__(self, llm: Any, work: Work) -> None:
        self._llm = llm
        self._work = work
        self._chooser = random.Random(work.batch)
        self._n_vocab = llm.llm_engine.model_config.get_vocab_size()
        self._prefix = self._random(work.cached)
        if self._prefix:
            self._generate([self._prefix], 1)

    def measure(self) -> float:
        work = self._work
        rate = 0.0
        for _ in range(2):
            prompts = [self._prefix + self._random(work.prompt) for _ in range(work.batch)]
            prefill_s = self._generate(prompts, 1)
            if work.kind == "prefill":
                rate = work.batch * work.prompt / prefill_s
            else:
                # Behind the prompts just computed, so that their prefill costs nearly nothing.
                whole_s = self._generate(prompts, work.generate + 1)
                again_s = self._generate(prompts, 1)
                rate = work.batch * work.generate / (whole_s - again_s)
        return rate

    def _generate(self, prompts: list[list[int]], generate: int) -> float:
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=generate, ignore_eos=True, detokenize=False
        )
        started = time.perf_counter()
        self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False
        )
        return time.perf_counter() - started

    def _random(self, count: int) -> list[int]:
        return [self._chooser.randrange(3, self._n_vocab) for _ in range(count)]


if __name__ == "__main__":
    main()
