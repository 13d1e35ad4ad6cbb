"""A server under load: streaming clients, beside the engine without HTTP and other servers.

    python -m benchmarks.server [--model NAME] [--clients 1,8,32,128] [--rounds 3]
        [--llama-server PATH] [--vllm] [--out JSON] [--plot PNG]

Chat: prompts of about 128 tokens of their own, up to 64 tokens out, every client asks again when it
has its answer. Classification: 256 requests that share 400 tokens and differ in about 60, one token
out. `--llama-server` (or LLAMA_SERVER) is llama.cpp's binary, which gets the model's GGUF file;
`--vllm` (or VLLM=1) is vLLM in .venv-vllm, which gets its weights in bf16.
The engine alone and the rivals are asked the same texts, the engine in turns with the server, since
a machine's speed changes from minute to minute; of several rounds the median counts. All clients
live in this process, on the same cores as what they measure, so they cost it a little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil

from benchmarks.clients import RIVAL, Answered, Row, load, work_of
from benchmarks.latency_plot import plot
from benchmarks.rivals import llama_server, vllm_server
from cierzo import LLM, SamplingParams, hub
from cierzo.settings import load_settings


def measure(server: str, url: str, model: str, work: str, clients: int, turn: int = 0) -> Row:
    texts, num_out = work_of(work, clients, turn)
    if work == "classify":  # a service that has run for long has the shared part cached
        asyncio.run(load(url, model, texts[:1], 1, 1))
    started = time.perf_counter()
    answers = asyncio.run(load(url, model, texts, clients, num_out))
    took_s = time.perf_counter() - started
    return row_of(server, work, clients, answers, took_s)


def of_rival(server: str, url: str, work: str, clients: int, rounds: int) -> Row:
    """The median round by its pace."""
    return middle([measure(server, url, RIVAL, work, clients, turn) for turn in range(rounds)])


def row_of(server: str, work: str, clients: int, answers: list[Answered], took_s: float) -> Row:
    ttft = [1000 * a.first_s for a in answers]
    tpot = [1000 * (a.last_s - a.first_s) / (a.num_tokens - 1) for a in answers if a.num_tokens > 1]
    return Row(
        server,
        work,
        clients,
        len(answers),
        round(sum(a.num_tokens for a in answers) / took_s, 1),
        round(60 * len(answers) / took_s, 1),
        round(statistics.mean(a.num_prompt_tokens for a in answers), 1),
        percentiles(ttft),
        percentiles(tpot),
    )


def percentiles(values: list[float]) -> tuple[float, float, float]:
    """p50, p95, p99 by nearest rank; zeros of nothing."""
    ordered = sorted(values) or [0.0]
    p50, p95, p99 = (
        ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in (0.5, 0.95, 0.99)
    )
    return round(p50, 2), round(p95, 2), round(p99, 2)


def offline(llm: LLM, work: str, clients: int, turn: int) -> Row:
    """The same requests straight into the engine, so many at a time."""
    texts, num_out = work_of(work, clients, turn)
    prompts = [llm.chat_prompt.encode([{"role": "user", "content": text}], None) for text in texts]
    params = SamplingParams(temperature=0, max_tokens=num_out)
    if work == "classify":
        llm.generate(prompts[:1], params)
    started = time.perf_counter()
    answers = [
        Answered(0, 0, len(done.prompt_token_ids), len(done.outputs[0].token_ids))
        for done in llm.generate(prompts, params)
    ]
    return row_of("cierzo offline", work, clients, answers, time.perf_counter() - started)


def in_turns(url: str, model: str, work: str, clients: int, rounds: int) -> list[Row]:
    """The server's row and the engine's, each the median round by its pace."""
    settings = load_settings({"max_running": clients})
    with LLM(model, settings=settings) as llm:
        llm.generate("Hello", SamplingParams(max_tokens=8))
        settle()
        pairs = [
            (measure("cierzo", url, model, work, clients, turn), offline(llm, work, clients, turn))
            for turn in range(rounds)
        ]
    ratios = sorted(http.items_per_min / alone.items_per_min for http, alone in pairs)
    print("through HTTP over alone:", " ".join(f"{ratio:.3f}" for ratio in ratios))
    return [middle([http for http, _ in pairs]), middle([alone for _, alone in pairs])]


def settle() -> None:
    """Wait until neither server nor engine computes: without work they make memory ready."""
    used_s = -1.0
    while (now_s := processor_s()) - used_s > 0.1:
        used_s = now_s
        time.sleep(1)


def processor_s() -> float:
    """What this process and those that it started have used of the processor so far."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(used.user + used.system for used in times)


def middle(rows: list[Row]) -> Row:
    return sorted(rows, key=lambda row: row.items_per_min)[len(rows) // 2]


@contextmanager
def served(model: str) -> Iterator[str]:
    """`cierzo serve` in a process of its own; its base URL."""
    command = [sys.executable, "-m", "cierzo", "serve", model, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+?:\d+", next(process.stdout))
            assert found is not None
            yield found[0]
        finally:
            process.terminate()


def gguf_of(model: str) -> Path:
    """The file that the model was made of."""
    source = hub.resolve(model, home=load_settings({}).home)
    return source if source.is_file() else next(source.glob("*.gguf"))


def show(row: Row) -> None:
    ttft, tpot = ("/".join(f"{value:.0f}" for value in row.ttft_ms), row.tpot_ms)
    print(
        f"{row.server:15s} {row.work:8s} {row.clients:4d} clients: {row.tokens_per_s:7.1f} tok/s"
        f" {row.items_per_min:7.0f} items/min, first token {ttft} ms,"
        f" per token {'/'.join(f'{value:.1f}' for value in tpot)} ms"
        f" ({row.requests} requests of {row.prompt_tokens:.0f} tokens)",
        flush=True,
    )


def main() -> None:
    arguments = _arguments()
    counts = [int(count) for count in arguments.clients.split(",")]
    cases = [("chat", count) for count in counts if "chat" in arguments.works]
    cases += [("classify", count) for count in (1, 32) if "classify" in arguments.works]
    rows: list[Row] = []

    def note(row: Row) -> None:
        rows.append(row)
        show(row)

    with served(arguments.model) as url:
        measure("cierzo", url, arguments.model, "chat", 2)
        for work, clients in cases:
            for row in in_turns(url, arguments.model, work, clients, arguments.rounds):
                note(row)
    for work, clients in cases if arguments.llama_server else ():
        if work == "chat" or clients == 1:  # it has one slot for the other work
            source = gguf_of(arguments.model)
            with llama_server.served(arguments.llama_server, source, work, clients) as url:
                note(of_rival("llama-server", url, work, clients, arguments.rounds))
    if arguments.vllm:
        with vllm_server.served(gguf_of(arguments.model), RIVAL) as url:
            measure("vllm (bf16)", url, RIVAL, "chat", 2)
            for work, clients in cases:
                note(of_rival("vllm (bf16)", url, work, clients, arguments.rounds))
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--clients", default="1,8,32,128")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--works", default="chat,classify")
    parser.add_argument("--llama-server", type=Path, default=os.environ.get("LLAMA_SERVER"))
    parser.add_argument("--vllm", action="store_true", default=bool(os.environ.get("VLLM")))
    parser.add_argument("--out", type=Path, help="JSON of all rows")
    parser.add_argument("--plot", type=Path, help="PNG of the latencies")
    return parser.parse_args()


if __name__ == "__main__":
    main()
