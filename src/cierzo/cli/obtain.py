"""From what a person names to a file on this disk, fetched first when known but absent."""

from __future__ import annotations

from pathlib import Path

from cierzo.cli.console import byte_progress


def obtain(name_or_path: str, home: Path) -> Path:
    """The file or folder to load. Raises ModelNotFoundError, HubError."""
    from cierzo import hub
    from cierzo.hub.catalogue import find_entry

    if Path(name_or_path).expanduser().exists() or find_entry(name_or_path) is None:
        return hub.resolve(name_or_path, home=home)
    with byte_progress("fetching") as progress:
        model = hub.pull(name_or_path, progress, home=home)
    return model.path
