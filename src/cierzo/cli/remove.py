"""`cierzo remove`: delete a model from this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import megabytes, out


def remove(
    name: Annotated[str, typer.Argument(help="A name that `cierzo models` lists.")],
    home: options.Home = None,
) -> None:
    """Delete a pulled model, its packed copy, and any unfinished fetch of it."""
    from cierzo import hub

    freed = hub.remove(name, options.settings_of(home=home).home)
    out.print(f"{name} removed, {megabytes(freed)} freed")
