"""`cierzo bench`: how fast this machine is, how fast a model is on it, and how near the two are."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cierzo.cli import options
from cierzo.cli.console import err, megabytes, out

if TYPE_CHECKING:
    from cierzo.cli.roofline import Roofline
    from cierzo.cli.speed import Load
    from cierzo.settings import Settings


def bench(
    model: options.OptionalModel = None,
    prompt: Annotated[int, typer.Option(min=1, help="Prompt length, in tokens.")] = 512,
    generate: Annotated[int, typer.Option(min=2, help="Tokens decoded after it.")] = 128,
    cached: Annotated[
        int, typer.Option(min=0, help="Tokens of a known prefix before the prompt.")
    ] = 0,
    batch: Annotated[
        str, typer.Option(help="Numbers of sequences to run at once, with commas.")
    ] = "1",
    repeat: Annotated[int, typer.Option(min=1, help="Runs to take the median of.")] = 3,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Measure what this machine can do, and no model.")
    ] = False,
    rates: Annotated[
        Path | None,
        typer.Option(
            help="What `--roofline --json` printed, to take the machine's rates from.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw the roofline and the runs (cierzo[bench]).", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    threads: options.Threads = None,
    isa: options.Isa = None,
    dtype: options.Dtype = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    home: options.Home = None,
) -> None:
    """Measure prefill and decode of MODEL: medians of several runs after a warm-up, each beside the
    least time that this machine would need. With --roofline, measure the machine alone."""
    from cierzo.cli.roofline import read_roofline
    from cierzo.cli.speed import Load

    if (model is None) != roofline:
        raise typer.BadParameter("give either a MODEL or --roofline")
    batches = _batches(batch)
    settings = options.settings_of(
        threads=threads,
        isa=isa,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        home=home,
        max_model_len=cached + prompt + generate,
        max_running=max(batches),
        max_waiting=max(batches),
        speculation=False,  # random prompts: what repeats itself after them says nothing of a model
    )
    if model is None:
        machine = _measure_machine(settings)
        result: dict[str, Any] = machine.to_json()
        _print_json(result) if as_json else _print_machine(machine)
    else:
        measured = None if rates is None else read_roofline(rates)
        loads = [Load(size, prompt, generate, cached) for size in batches]
        say = (lambda text: None) if as_json else err.print
        machine, result = _measure_model(model, settings, loads, repeat, measured, say)
        _print_json(result) if as_json else _print_table(result)
    if plot is not None:
        from cierzo.cli.roofline_plot import draw, points_of

        draw(plot, machine, points_of(result) if model is not None else [], machine.most_threads)
        err.print(f"drawn: {plot}")


def _batches(text: str) -> list[int]:
    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise typer.BadParameter(f"--batch is {text!r}: give numbers of sequences, like 1,4,16")
    return batches


def _measure_machine(settings: Settings) -> Roofline:
    from cierzo import kernels
    from cierzo.cli.roofline import measure_roofline, thread_counts
    from cierzo.kernels.setup import configure_kernels

    configure_kernels(settings.isa, settings.threads)
    isas = [settings.isa] if settings.isa else kernels.available_isas()
    return measure_roofline(thread_counts(kernels.num_threads()), isas)


def _measure_model(
    model: str,
    settings: Settings,
    loads: list[Load],
    repeat: int,
    machine: Roofline | None,
    say: Callable[[str], None],
) -> tuple[Roofline, dict[str, Any]]:
    import psutil

    from cierzo import kernels
    from cierzo.cli.floors import decode_reached, model_bytes, prefill_reached, rates_for
    from cierzo.cli.local import open_model
    from cierzo.cli.roofline import MEMORY_BYTES, measure_roofline
    from cierzo.cli.speed import measure
    from cierzo.models.packed_folder import read_manifest

    started = time.perf_counter()
    with open_model(model, settings) as llm:
        load_s = time.perf_counter() - started
        threads, isa = kernels.num_threads(), kernels.isa()
        weights = model_bytes(read_manifest(llm.folder).entries, llm.config)
        rows = []
        for load in loads:
            say(f"measuring {load.batch} at once")
            speed = measure(llm.engine, llm.config.vocab_size, load, repeat)
            rows.append((load, speed))
        memory = psutil.Process().memory_info()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        config, kv_cache_nbytes = llm.config, llm.kv_cache_nbytes
    if machine is None:
        say("measuring the machine")
        machine = measure_roofline([threads], [isa], [min(weights.total, MEMORY_BYTES)])
    rates = rates_for(weights, machine, isa, threads)
    result = {
        "model": model,
        "threads": threads,
        "isa": isa,
        "kv_cache_dtype": settings.kv_cache_dtype,
        "repeat": repeat,
        "load_s": round(load_s, 3),
        "memory": {
            "weights_bytes": weights.total,
            "kv_cache_bytes": kv_cache_nbytes,
            # Mapped files (the weights) are shared with other processes and not ours to count.
            "rest_bytes": max(memory.rss - memory.shared - kv_cache_nbytes, 0),
            "resident_bytes": memory.rss,
            "peak_bytes": peak,
        },
        "rates": asdict(rates),
        "batches": [
            asdict(load)
            | asdict(speed)
            | {
                "prefill": asdict(
                    prefill_reached(config, weights, rates, load, speed.prefill_tok_s)
                ),
                "decode": asdict(
                    decode_reached(
                        config,
                        weights,
                        rates,
                        load,
                        speed.decode_tok_s,
                        settings.kv_cache_dtype,
                    )
                ),
            }
            for load, speed in rows
        ],
    }
    return machine, result


def _print_json(result: dict[str, Any]) -> None:
    typer.echo(json.dumps(result))


def _print_machine(machine: Roofline) -> None:
    from rich.table import Table

    from cierzo.cli.roofline import UNITS

    counts = sorted({read.threads for read in machine.reads})
    out.print(machine.machine)
    table = Table("read, GB/s", box=None, pad_edge=False)
    for count in counts:
        table.add_column(_threads(count), justify="right")
    sizes = sorted({read.nbytes for read in machine.reads})
    for nbytes in sizes:
        by_count = {r.threads: r.bytes_s for r in machine.reads if r.nbytes == nbytes}
        cells = [f"{by_count[n] / 1e9:.1f}" if n in by_count else "" for n in counts]
        table.add_row(f"working set of {nbytes >> 20} MiB", *cells)
    out.print(table)
    table = Table("multiply, GOPS", box=None, pad_edge=False)
    for count in counts:
        table.add_column(_threads(count), justify="right")
    for isa, unit in dict.fromkeys((m.isa, m.unit) for m in machine.multiplies):
        cells = [f"{machine.ops_s(isa, unit, count) / 1e9:.0f}" for count in counts]
        table.add_row(f"{isa}: {UNITS[unit]}", *cells)
    out.print(table)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _print_table(result: dict[str, Any]) -> None:
    from rich.table import Table

    memory = {name: megabytes(nbytes) for name, nbytes in result["memory"].items()}
    out.print(
        f"{result['model']}: {result['threads']} threads, {result['isa']}, loaded in"
        f" {result['load_s']} s"
    )
    out.print(
        f"resident {memory['resident_bytes']}: weights {memory['weights_bytes']}, KV cache"
        f" {memory['kv_cache_bytes']} in {result['kv_cache_dtype']}, rest {memory['rest_bytes']};"
        f" peak {memory['peak_bytes']}"
    )
    table = Table("sequences", box=None, pad_edge=False)
    titles = ("prefill tok/s", "of floor", "decode tok/s", "of floor", "first token ms")
    for title in (*titles, "per token ms", "outside model"):
        table.add_column(title, justify="right")
    for row in result["batches"]:
        table.add_row(
            str(row["batch"]),
            str(row["prefill_tok_s"]),
            _share(row["prefill"]),
            str(row["decode_tok_s"]),
            _share(row["decode"]),
            str(row["ttft_ms"]),
            str(row["tpot_ms"]),
            f"{row['outside_model']:.1%}",
        )
    out.print(table)


def _share(reached: dict[str, Any]) -> str:
    return f"{reached['fraction']:.0%} of {reached['floor_tok_s']:.0f}"
