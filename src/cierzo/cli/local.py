"""A model in this process: obtained, packed the first time, loaded; progress shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cierzo.cli.console import byte_progress
from cierzo.cli.obtain import obtain
from cierzo.kernels.setup import configure_kernels
from cierzo.llm import LLM
from cierzo.models.loading import ensure_packed
from cierzo.settings import Settings


@contextmanager
def open_model(name: str, settings: Settings) -> Iterator[LLM]:
    """The model by that name or path, ready to run; stopped at the end."""
    configure_kernels(settings.isa, settings.threads)
    source = obtain(name, settings.home)
    with byte_progress("packing") as progress:
        packed = ensure_packed(
            source,
            settings.dtype,
            cache_dir=settings.home / "packed",
            progress=lambda done, total, tensor: progress(name, done, total),
        )
    with LLM(packed, settings=settings) as llm:
        yield llm
