"""`cierzo version`: what is installed, for a bug report."""

from __future__ import annotations

import platform

from cierzo.cli.console import out


def version() -> None:
    """Print the version, Python's, and the instruction set in use."""
    from importlib.metadata import version as installed

    from cierzo import kernels

    out.print(f"cierzo {installed('cierzo')}, Python {platform.python_version()}, {kernels.isa()}")
