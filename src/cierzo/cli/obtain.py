"""From what a person names to a file on this disk, fetched first when known but absent."""

from __future__ import annotations

from pathlib import Path

from cierzo.cli.console import byte_progress
from cierzo.errors import ModelNotFoundError


def obtain(name_or_path: str, home: Path) -> Path:
    """The file or folder to load. Raises ModelNotFoundError, HubError."""
    from cierzo import hub
    from cierzo.hub.catalogue import find_entry

    try:
        return hub.resolve(name_or_path, home=home)
    except ModelNotFoundError:
        if find_entry(name_or_path) is None:
            raise
    with byte_progress("fetching") as progress:
        return hub.pull(name_or_path, progress, home=home).path
