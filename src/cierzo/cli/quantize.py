"""`cierzo quantize`: write a packed folder from any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cierzo.cli import options
from cierzo.cli.console import byte_progress, megabytes, out


def quantize(
    model: options.Model,
    output: Annotated[Path, typer.Argument(help="The folder to write.", metavar="OUT")],
    dtype: Annotated[
        Literal["int4", "int8", "bf16"], typer.Option(help="Weights of the new folder.")
    ] = "int4",
    home: options.Home = None,
) -> None:
    """Write MODEL as a folder that starts at once, at int4, int8 or bf16.

    Works tensor by tensor: the memory needed is a small multiple of the largest tensor.
    """
    from cierzo.cli.obtain import obtain
    from cierzo.kernels.setup import configure_kernels
    from cierzo.models.loading import quantize as write_quantized

    settings = options.settings_of(home=home)
    configure_kernels(settings.isa, settings.threads)
    source = obtain(model, settings.home)
    with byte_progress("packing") as progress:
        folder = write_quantized(
            source, output, dtype, lambda done, total, name: progress(model, done, total)
        )
    size = sum(path.stat().st_size for path in folder.iterdir())
    out.print(f"{folder}: {megabytes(size)} at {dtype}")
