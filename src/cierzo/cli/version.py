"""`cierzo version`: what is installed, for a bug report."""

from __future__ import annotations

import platform

from cierzo.cli import options
from cierzo.cli.console import out


def version() -> None:
    """Print the version, Python's, and the instruction set in use."""
    from importlib.metadata import version as installed

    from cierzo import kernels
    from cierzo.kernels.setup import configure_kernels

    settings = options.settings_of()
    configure_kernels(settings.isa, settings.threads)
    out.print(f"cierzo {installed('cierzo')}, Python {platform.python_version()}, {kernels.isa()}")
