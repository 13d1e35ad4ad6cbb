"""Names to files on this disk: the catalogue, fetching, and the models directory.

Knows nothing of what is inside the files.
"""

from cierzo.hub.catalogue import CATALOGUE, DEFAULT_MODEL
from cierzo.hub.download import Progress
from cierzo.hub.models_dir import PulledModel, list_models, remove, resolve
from cierzo.hub.pull import pull

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
