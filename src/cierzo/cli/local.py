"""A model in this process: obtained, packed the first time, loaded; progress shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cierzo.cli.console import byte_progress
from cierzo.cli.obtain import obtain
from cierzo.engine.memory import split_memory
from cierzo.kernels.setup import configure_kernels
from cierzo.llm import LLM, memory_ceiling
from cierzo.models.loading import ensure_packed
from cierzo.models.packed_folder import open_packed
from cierzo.settings import Settings


@contextmanager
def open_model(name: str, settings: Settings) -> Iterator[LLM]:
    """The model by that name or path, ready to run; stopped at the end."""
    with LLM(packed_folder(name, settings), settings=settings) as llm:
        yield llm


def packed_folder(name: str, settings: Settings) -> Path:
    """The model by that name or path, in the form that is run."""
    configure_kernels(settings.isa, settings.threads)
    source = obtain(name, settings.home)
    with byte_progress("packing") as progress:
        return ensure_packed(
            source,
            settings.dtype,
            cache_dir=settings.home / "packed",
            progress=lambda done, total, tensor: progress(name, done, total),
        )


def memory_of_each(folders: list[Path], settings: Settings) -> list[int]:
    """The memory ceiling's parts for models that run side by side, in bytes.

    Raises ModelTooLargeError, with the sums, when their weights alone are over it.
    """
    weights = [(folder.name, open_packed(folder).weights_nbytes) for folder in folders]
    return split_memory(weights, memory_ceiling(settings))
