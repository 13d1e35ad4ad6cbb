"""A server under load: streaming clients, beside the engine without HTTP and a llama.cpp server.

    python -m benchmarks.server [--model NAME] [--clients 1,8,32,128] [--rounds 3]
        [--llama-server PATH] [--out JSON] [--plot PNG]

Chat: prompts of about 128 tokens of their own, up to 64 tokens out, every client asks again when it
has its answer. Classification: 256 requests that share 400 tokens and differ in about 60, one token
out. `--llama-server` (or LLAMA_SERVER) is llama.cpp's binary, which gets the model's GGUF file.
The engine alone and the rival are asked the same texts, the engine in turns with the server, since
a machine's speed changes from minute to minute; of several rounds the median counts. All clients
live in this process, on the same cores as what they measure, so they cost it a little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from benchmarks.rivals import llama_server
from cierzo import LLM, SamplingParams, hub
from cierzo.settings import load_settings

NUM_OUT = 64
WORDS = (
    "time year people way day man thing woman life child world school state family student group"
    " country problem hand part place case week company system program question work government"
    " number night point home water room mother area money story fact month lot right study book"
).split()


@dataclass(frozen=True, slots=True)
class Answered:
    """One request, in seconds after it was sent. `first_s` is its first text."""

    first_s: float
    last_s: float
    num_prompt_tokens: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Row:
    """What a number of clients measured. Latencies in milliseconds: p50, p95, p99."""

    server: str
    work: str
    clients: int
    requests: int
    tokens_per_s: float
    items_per_min: float
    prompt_tokens: float
    ttft_ms: tuple[float, float, float]
    tpot_ms: tuple[float, float, float]


def chat_texts(count: int, seed: int) -> list[str]:
    chooser = random.Random(seed)
    return [" ".join(chooser.choices(WORDS, k=96)) + f" {seed}-{i}" for i in range(count)]


def classify_texts(count: int, seed: int) -> list[str]:
    chooser = random.Random(seed)
    shared = " ".join(chooser.choices(WORDS, k=400))
    return [f"{shared} {' '.join(chooser.choices(WORDS, k=54))} {i}" for i in range(count)]


def body_of(model: str, text: str, num_out: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    options = {"stream_options": {"include_usage": True}} if model == "rival" else {}
    body = {"model": model, "messages": messages, "max_tokens": num_out, "temperature": 0}
    return body | {"stream": True} | options


class Connection:
    """One client's, kept open from request to request as the SDKs do."""

    def __init__(self, url: str) -> None:
        self._at = urlsplit(url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: dict[str, Any]) -> Answered:
        """Post `body` and read the events of its answer."""
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {self._at.netloc}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        started = time.perf_counter()
        try:
            reader, answer = await self._send(head.encode() + data)
        except (asyncio.IncompleteReadError, ConnectionError):  # some servers close idle ones
            self.close()
            reader, answer = await self._send(head.encode() + data)
        if b" 200 " not in answer.partition(b"\r\n")[0]:
            raise RuntimeError(answer.decode())
        return await _read(reader, started)

    async def _send(self, request: bytes) -> tuple[asyncio.StreamReader, bytes]:
        """The reader of the answer, and its head."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._at.hostname, self._at.port)
        reader, writer = self._streams
        writer.write(request)
        return reader, await reader.readuntil(b"\r\n\r\n")

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


async def _read(reader: asyncio.StreamReader, started: float) -> Answered:
    """An answer's events. Only the last ones are parsed, for the usage: a client that shares its
    cores with the server should cost little."""
    first_s = last_s = 0.0
    num_texts, tail = 0, b""
    while not tail.endswith(b"\r\n0\r\n\r\n"):
        data = await reader.read(1 << 16)
        if not data:
            raise RuntimeError(f"the answer broke off: {tail!r}")
        num_texts += (num_new := data.count(b'"content":"') - data.count(b'"content":""'))
        if num_new > 0:
            last_s = time.perf_counter() - started
            first_s = first_s or last_s
        tail = (tail + data)[-4096:]
    lines = [line[6:] for line in tail.splitlines() if line.startswith(b"data: {")]
    usages = [usage for line in lines if (usage := json.loads(line).get("usage"))]
    usage = usages[-1] if usages else {}
    last_s = last_s or time.perf_counter() - started  # an answer may be an end and no text
    num_tokens = usage.get("completion_tokens", num_texts)
    return Answered(first_s or last_s, last_s, usage.get("prompt_tokens", 0), num_tokens)


async def load(
    url: str, model: str, texts: list[str], clients: int, num_out: int
) -> list[Answered]:
    """All texts asked by so many clients, each after the other. Their answers, and how long."""
    waiting, answers = list(reversed(texts)), []

    async def client() -> None:
        with closing(Connection(url)) as connection:
            while waiting:
                answers.append(await connection.ask(body_of(model, waiting.pop(), num_out)))

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


def work_of(work: str, clients: int, turn: int) -> tuple[list[str], int]:
    """Texts, and tokens out for each. No two cases share texts: they would be cached."""
    seed = clients + 1000 * turn
    if work == "classify":
        return classify_texts(256, seed), 1
    return chat_texts(max(16, 2 * clients), seed), NUM_OUT


def measure(server: str, url: str, model: str, work: str, clients: int, turn: int = 0) -> Row:
    texts, num_out = work_of(work, clients, turn)
    if work == "classify":  # a service that has run for long has the shared part cached
        asyncio.run(load(url, model, texts[:1], 1, 1))
    started = time.perf_counter()
    answers = asyncio.run(load(url, model, texts, clients, num_out))
    took_s = time.perf_counter() - started
    return row_of(server, work, clients, answers, took_s)


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


def plot(rows: list[Row], path: Path) -> None:
    """p50 to p99 of both latencies over the number of clients."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    servers = list(dict.fromkeys(row.server for row in rows if row.ttft_ms[0] > 0))
    for axis, field, title in zip(
        axes, ("ttft_ms", "tpot_ms"), ("time to first token", "time per output token"), strict=True
    ):
        for server, colour in zip(servers, ("#0072b2", "#d55e00"), strict=False):
            of = [r for r in rows if r.server == server and r.work == "chat"]
            clients = [row.clients for row in of]
            values = [getattr(row, field) for row in of]
            axis.plot(clients, [v[0] for v in values], "o-", color=colour, label=f"{server}, p50")
            axis.plot(clients, [v[2] for v in values], "s:", color=colour, label=f"{server}, p99")
        axis.set(xscale="log", yscale="log", xlabel="streaming clients", ylabel="ms", title=title)
        axis.set_xticks(clients, [str(count) for count in clients])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--clients", default="1,8,32,128")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--works", default="chat,classify")
    parser.add_argument("--llama-server", type=Path, default=os.environ.get("LLAMA_SERVER"))
    parser.add_argument("--out", type=Path, help="JSON of all rows")
    parser.add_argument("--plot", type=Path, help="PNG of the latencies")
    arguments = parser.parse_args()
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
            with llama_server.served(
                arguments.llama_server, gguf_of(arguments.model), work, clients
            ) as url:
                rounds = [
                    measure("llama-server", url, "rival", work, clients, turn)
                    for turn in range(arguments.rounds)
                ]
            note(middle(rounds))
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
