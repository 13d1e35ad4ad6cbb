"""The same questions answered by generating with llama.cpp, as its server does at its best: many
slots in one batch, each with the question's prefix already in its cache, greedy, stopped as soon
as a label is there. No HTTP, and tokens come ready, in its favour. Runs in .venv-bench.

Reads {"prompts": [[token ids]], "labels": [text]} on stdin; prints {"answers": [label number or
null], "seconds": …}.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp

NUM_SLOTS = 32
BATCH = 2048
MAX_ANSWER_TOKENS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    task = json.load(sys.stdin)
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        arguments.model.encode(), llama_cpp.llama_model_default_params()
    )
    slots = Slots(model, task["prompts"], task["labels"], arguments.threads)
    slots.answer(task["prompts"][:NUM_SLOTS])
    started = time.perf_counter()
    answers: list[int | None] = []
    for start in range(0, len(task["prompts"]), NUM_SLOTS):
        answers += slots.answer(task["prompts"][start : start + NUM_SLOTS])
    print(json.dumps({"answers": answers, "seconds": time.perf_counter() - started}))


class Slots:
    """NUM_SLOTS sequences that share one prefix."""

    def __init__(
        self, model: Any, prompts: Sequence[list[int]], labels: list[str], threads: int
    ) -> None:
        self._prefix = os.path.commonprefix([tuple(prompt) for prompt in prompts])
        self._labels = labels
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        longest = max(map(len, prompts)) + MAX_ANSWER_TOKENS
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = NUM_SLOTS * longest
        params.n_batch, params.n_ubatch = BATCH, 512
        params.n_seq_max = NUM_SLOTS
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(model, params)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self._compute([(0, at, token) for at, token in enumerate(self._prefix)])
        for slot in range(1, NUM_SLOTS):
            llama_cpp.llama_memory_seq_cp(self._memory, 0, slot, 0, -1)

    def answer(self, prompts: Sequence[list[int]]) -> list[int | None]:
        """The label that each prompt's answer spells, or None."""
        first = len(self._prefix)
        for slot in range(NUM_SLOTS):
            llama_cpp.llama_memory_seq_rm(self._memory, slot, first, -1)
        chosen = self._compute(
            [
                (slot, first + at, token)
                for slot, prompt in enumerate(prompts)
                for at, token in enumerate(prompt[first:])
            ]
        )
        written = [""] * len(prompts)
        for step in range(MAX_ANSWER_TOKENS):
            for slot, token in chosen.items():
                written[slot] += self._piece(token)
            unclear = [slot for slot in chosen if self._label(written[slot]) is None]
            if not unclear or step == MAX_ANSWER_TOKENS - 1:
                break
            places = [(slot, len(prompts[slot]) + step, chosen[slot]) for slot in unclear]
            chosen = self._compute(places)
        return [self._label(text) for text in written]

    def _label(self, text: str) -> int | None:
        spelled = text.strip().lower()
        for at, label in enumerate(self._labels):
            if spelled.startswith(label):
                return at
        return None

    def _piece(self, token: int) -> str:
        buffer = ctypes.create_string_buffer(64)
        size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, 64, 0, False)
        return buffer.raw[: max(size, 0)].decode(errors="replace")

    def _compute(self, places: Sequence[tuple[int, int, int]]) -> dict[int, int]:
        """These (slot, position, token); the likeliest next token of each slot."""
        last = {slot: position for slot, position, _ in places}
        chosen = {}
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            for i, (slot, position, token) in enumerate(part):
                self._batch.token[i] = token
                self._batch.pos[i] = position
                self._batch.n_seq_id[i] = 1
                self._batch.seq_id[i][0] = slot
                self._batch.logits[i] = last[slot] == position
            self._batch.n_tokens = len(part)
            if llama_cpp.llama_decode(self._context, self._batch) != 0:
                raise SystemExit("llama_decode failed")
            for i, (slot, position, _) in enumerate(part):
                if last[slot] == position:
                    logits = llama_cpp.llama_get_logits_ith(self._context, i)
                    chosen[slot] = self._likeliest(logits)
        return chosen

    def _likeliest(self, logits: Any) -> int:
        import numpy as np

        return int(np.ctypeslib.as_array(logits, shape=(self._n_vocab,)).argmax())


if __name__ == "__main__":
    main()
