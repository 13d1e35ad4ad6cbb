"""`cierzo bench`: how fast a model is on this machine."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from cierzo.cli import options
from cierzo.cli.console import err, megabytes, out


def bench(
    model: options.Model,
    prompt: Annotated[int, typer.Option(min=1, help="Prompt length, in tokens.")] = 512,
    generate: Annotated[int, typer.Option(min=2, help="Tokens decoded after it.")] = 128,
    batch: Annotated[
        str, typer.Option(help="Numbers of sequences to run at once, with commas.")
    ] = "1",
    repeat: Annotated[int, typer.Option(min=1, help="Runs to take the median of.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    threads: options.Threads = None,
    isa: options.Isa = None,
    dtype: options.Dtype = None,
    home: options.Home = None,
) -> None:
    """Measure prefill and decode: medians of several runs after a warm-up."""
    import psutil

    from cierzo import kernels
    from cierzo.cli.local import open_model
    from cierzo.cli.speed import measure

    batches = _batches(batch)
    settings = options.settings_of(
        threads=threads,
        isa=isa,
        dtype=dtype,
        home=home,
        max_model_len=prompt + generate,
        max_running=max(batches),
        max_waiting=max(batches),
    )
    started = time.perf_counter()
    with open_model(model, settings) as llm:
        load_s = time.perf_counter() - started
        speeds = []
        for size in batches:
            err.print(f"measuring {size} at once") if not as_json else None
            speeds.append(
                measure(llm.engine, llm.config.vocab_size, size, prompt, generate, repeat)
            )
        result: dict[str, Any] = {
            "model": model,
            "threads": kernels.num_threads(),
            "isa": kernels.isa(),
            "prompt": prompt,
            "generate": generate,
            "repeat": repeat,
            "load_s": round(load_s, 3),
            "rss_bytes": psutil.Process().memory_info().rss,
            "batches": [asdict(speed) for speed in speeds],
        }
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print_table(result)


def _batches(text: str) -> list[int]:
    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise typer.BadParameter(f"--batch is {text!r}: give numbers of sequences, like 1,4,16")
    return batches


def _print_table(result: dict[str, Any]) -> None:
    from rich.table import Table

    out.print(
        f"{result['model']}: {result['threads']} threads, {result['isa']}, loaded in"
        f" {result['load_s']} s, {megabytes(result['rss_bytes'])} resident"
    )
    table = Table("sequences", box=None, pad_edge=False)
    for title in ("prefill tok/s", "decode tok/s", "first token ms", "per token ms"):
        table.add_column(title, justify="right")
    for row in result["batches"]:
        cells = (row["prefill_tok_s"], row["decode_tok_s"], row["ttft_ms"], row["tpot_ms"])
        table.add_row(str(row["batch"]), *map(str, cells))
    out.print(table)
