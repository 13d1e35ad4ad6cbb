"""Gold of the default model on real text: the oracle's best alternatives at some positions.

Whole rows of 49152 logits would be megabytes; the best 64 of a row and its normaliser are what
a user meets.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GOLD_FILE = Path(__file__).parent.parent / "gold" / "default_model.npz"
TEXT_FILE = Path(__file__).parent.parent.parent / "LICENSE"
NUM_TOKENS = 300
NUM_ALTERNATIVES = 64

Float32 = NDArray[np.float32]


def text() -> str:
    """Real prose that will not change: the start of the licence."""
    return TEXT_FILE.read_text()[:3000]


def logprobs(logits: Float32) -> Float32:
    """Row-wise log softmax."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def best_alternatives(logits: Float32) -> tuple[NDArray[np.int32], Float32]:
    """Ids and logprobs of each row's best tokens, [n_tokens, 64]."""
    rows = logprobs(logits)
    ids = np.argsort(-rows, axis=1, kind="stable")[:, :NUM_ALTERNATIVES]
    return ids.astype(np.int32), np.take_along_axis(rows, ids, axis=1).astype(np.float32)
