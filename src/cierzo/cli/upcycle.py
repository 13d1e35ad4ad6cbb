"""`cierzo upcycle`: a sparse model out of a dense one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import byte_progress, megabytes, out


def upcycle(
    model: options.Model,
    output: Annotated[Path, typer.Argument(help="The folder to write.", metavar="OUT")],
    experts: Annotated[int, typer.Option(min=1, help="Experts per layer.")] = 8,
    experts_per_token: Annotated[
        int, typer.Option(min=1, help="Experts that each token uses.")
    ] = 2,
    dtype: options.Dtype = None,
    home: options.Home = None,
) -> None:
    """Turn a dense MODEL into a Mixtral one: every expert a copy, the router random.

    It says what the dense model says, through the sparse path: a starting point for training,
    and a test of the path.
    """
    from cierzo.cli.obtain import obtain
    from cierzo.kernels.setup import configure_kernels
    from cierzo.models.upcycle import upcycle as write_upcycled

    settings = options.settings_of(dtype=dtype, home=home)
    configure_kernels(settings.isa, settings.threads)
    source = obtain(model, settings.home)
    with byte_progress("packing") as progress:
        folder = write_upcycled(
            source,
            output,
            experts,
            experts_per_token,
            dtype=settings.dtype,
            progress=lambda done, total, name: progress(model, done, total),
        )
    size = sum(path.stat().st_size for path in folder.iterdir())
    out.print(f"{folder}: {megabytes(size)}, {experts_per_token} of {experts} experts per token")
