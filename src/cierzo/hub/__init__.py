"""Names to files on this disk: the catalogue, fetching, and the models directory.

Knows nothing of what is inside the files.
"""

from __future__ import annotations

from pathlib import Path

from cierzo.hub.catalogue import CATALOGUE, DEFAULT_MODEL
from cierzo.hub.models_dir import PulledModel, list_models, remove, resolve
from cierzo.hub.progress import Progress, quiet

__all__ = [
    "CATALOGUE",
    "DEFAULT_MODEL",
    "Progress",
    "PulledModel",
    "list_models",
    "pull",
    "remove",
    "resolve",
]


def pull(
    name: str, progress: Progress = quiet, *, home: Path, endpoint: str | None = None
) -> PulledModel:
    """Fetch `name` unless it is here already; see `fetch.fetch` for what it raises.

    `endpoint` is the hub's address (None: HF_ENDPOINT, or the public one).
    """
    # The hub's client takes longer to import than the default model to load.
    from cierzo.hub.fetch import fetch

    return fetch(name, progress, home=home, endpoint=endpoint)
