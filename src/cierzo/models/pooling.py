"""How a checkpoint makes one vector of a text, from sentence-transformers' 1_Pooling/config.json.

A checkpoint without that file says nothing, and the last token's hidden state is taken: in a
causal model it is the one that has read the whole text.
"""

from __future__ import annotations

from pathlib import Path

from cierzo.config import Pooling
from cierzo.models.config_checks import unsupported
from cierzo.models.fields import Fields, read_json_object

_MODES: dict[str, Pooling] = {
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
}


def read_pooling(path: Path | None) -> Pooling:
    """What the file at `path` says; None is a checkpoint without one.

    Raises ModelFileError, and UnsupportedModelError for modes that we do not have.
    """
    if path is None:
        return "last"
    fields = Fields(read_json_object(path), str(path))
    chosen = [name for name in fields.names if name.startswith("pooling_mode_")]
    chosen = [name for name in chosen if fields.flag(name, False)]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise unsupported(str(path), f"pooling by {' and '.join(chosen) or 'no mode'}")
    return _MODES[chosen[0]]
