"""How a fetch says how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told how far a file is; called often, from the fetching thread."""

    def __call__(self, file: str, done_bytes: int, total_bytes: int) -> None: ...


def quiet(file: str, done_bytes: int, total_bytes: int) -> None:
    """The progress that tells nobody."""
