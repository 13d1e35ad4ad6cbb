"""One round of llama.cpp: prefill of a prompt, then decode after it. Prints one JSON object.

Runs in .venv-bench and knows nothing of Cierzo:
    python llama_speed.py MODEL.gguf --threads N --prompt 512 --generate 128
Calls the C API directly, so that Python costs nothing that shows. Both of its attention paths are
measured, and the faster is reported for prefill and for decode separately.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import time

import llama_cpp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=128)
    arguments = parser.parse_args()
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        arguments.model.encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        raise SystemExit(f"llama.cpp cannot load {arguments.model}")
    rounds = [measure(model, arguments, flash) for flash in (0, 1)]
    best = {
        "prefill_tok_s": max(prefill for prefill, _ in rounds),
        "decode_tok_s": max(decode for _, decode in rounds),
    }
    print(json.dumps({**best, "flash_attention_off": rounds[0], "flash_attention_on": rounds[1]}))


def measure(model: object, arguments: argparse.Namespace, flash: int) -> tuple[float, float]:
    """Prefill and decode in tokens per second, after a warm-up of the same shape."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = arguments.prompt + arguments.generate + 8
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = arguments.threads
    params.flash_attn_type = flash
    context = llama_cpp.llama_init_from_model(model, params)
    vocab = llama_cpp.llama_model_get_vocab(model)
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    chooser = random.Random(0)
    measured = (0.0, 0.0)
    for _ in range(2):
        prompt = [chooser.randrange(n_vocab) for _ in range(arguments.prompt)]
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        measured = one_round(context, prompt, arguments.generate, n_vocab)
    llama_cpp.llama_free(context)
    return measured


def one_round(
    context: object, prompt: list[int], generate: int, n_vocab: int
) -> tuple[float, float]:
    greedy = llama_cpp.llama_sampler_init_greedy()
    started = time.perf_counter()
    for first in range(0, len(prompt), 512):
        decode(context, prompt[first : first + 512])
    token = llama_cpp.llama_sampler_sample(greedy, context, -1)
    prefilled = time.perf_counter()
    for _ in range(generate):
        decode(context, [token])
        token = llama_cpp.llama_sampler_sample(greedy, context, -1)
    ended = time.perf_counter()
    llama_cpp.llama_sampler_free(greedy)
    return len(prompt) / (prefilled - started), generate / (ended - prefilled)


def decode(context: object, token_ids: list[int]) -> None:
    array = (ctypes.c_int32 * len(token_ids))(*token_ids)
    status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(token_ids)))
    if status != 0:
        raise SystemExit(f"llama_decode failed with status {status}")


if __name__ == "__main__":
    main()
