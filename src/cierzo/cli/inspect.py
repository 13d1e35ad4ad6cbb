"""`cierzo inspect`: what a model is, before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cierzo.cli import options
from cierzo.cli.console import byte_progress, err, megabytes, out
from cierzo.errors import SettingError

if TYPE_CHECKING:
    from cierzo.models.inspect import ModelReport
    from cierzo.settings import Settings


def inspect(
    model: options.Model,
    context: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens to count the KV cache for; default 4096.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all of the packed copy, too, and check it.")
    ] = False,
    dtype: options.Dtype = None,
    home: options.Home = None,
) -> None:
    """Say what MODEL is: architecture, parameters, memory needed, and whether it runs here."""
    from cierzo import hub
    from cierzo.models.inspect import inspect_model

    settings = options.settings_of(dtype=dtype, home=home)
    source = hub.resolve(model, home=settings.home)
    report = inspect_model(source, dtype=settings.dtype, context_length=context)
    if verify:
        _verify(source, settings)
    if as_json:
        typer.echo(json.dumps(as_object(report)))
        return
    width = max(len(name) for name, _ in rows(report))
    for name, value in rows(report):
        out.print(f"{name:<{width}}  {value}", markup=False)


def as_object(report: ModelReport) -> dict[str, Any]:
    """The report for programs: sizes in bytes, null where unknown, every key always there."""
    return {
        "source": str(report.source),
        "format": report.format,
        "architecture": report.architecture,
        "parameters": report.total_parameters,
        "active_parameters": report.active_parameters,
        "tensors": {
            count.type_name: {"count": count.count, "bytes": count.nbytes}
            for count in report.tensors
        },
        "context_length": report.context_length,
        "weights_bytes": report.weights_nbytes,
        "kv_cache_bytes": report.kv_cache_nbytes,
        "memory_bytes": report.memory_nbytes,
        "available_bytes": report.available_nbytes,
        "worst_relative_error": report.worst_relative_error,
        "tokenizer": report.tokenizer,
        "has_chat_template": report.has_chat_template,
        "licence": report.licence,
        "will_run": report.will_run,
        "problem": report.problem,
    }


def rows(report: ModelReport) -> list[tuple[str, Any]]:
    """The report as names and values for people, unknown values left out."""
    found: list[tuple[str, Any]] = [
        ("model", str(report.source)),
        ("format", report.format),
        ("architecture", report.architecture),
        ("parameters", _billions(report.total_parameters)),
        ("active parameters", _billions(report.active_parameters)),
    ]
    found += [
        (f"tensors {count.type_name}", f"{count.count}, {megabytes(count.nbytes)}")
        for count in report.tensors
    ]
    found += [
        ("weights in memory", _size(report.weights_nbytes)),
        (f"KV cache at {report.context_length} tokens in bf16", _size(report.kv_cache_nbytes)),
        ("memory needed", _size(report.memory_nbytes)),
        ("memory available", _size(report.available_nbytes)),
        ("tokenizer", report.tokenizer),
        ("chat template", "yes" if report.has_chat_template else "no"),
        ("licence", report.licence),
        ("will run here", f"no: {report.problem}" if report.problem else "yes"),
    ]
    if report.worst_relative_error is not None:
        found.append(("worst relative error", f"{report.worst_relative_error:.2e}"))
    return [(name, value) for name, value in found if value is not None]


def _verify(source: Path, settings: Settings) -> None:
    """Read every byte of what is run. Raises SettingError when nothing has been packed yet."""
    from cierzo.models.loading import find_packed
    from cierzo.models.packed_folder import verify_packed

    folder = find_packed(source, settings.dtype, cache_dir=settings.home / "packed")
    if folder is None:
        raise SettingError(
            f"{source}: no sound packed copy at dtype {settings.dtype} to verify; loading the"
            " model writes one"
        )
    with byte_progress("verifying") as progress:
        verify_packed(folder, lambda done, total, _: progress(folder.name, done, total))
    err.print(f"{folder}: every checksum matches", markup=False)


def _billions(count: int | None) -> str | None:
    if count is None:
        return None
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"


def _size(nbytes: int | None) -> str | None:
    return None if nbytes is None else megabytes(nbytes)
