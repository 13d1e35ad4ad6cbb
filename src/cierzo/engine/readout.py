"""What is read off a prompt instead of continuing it: its hidden state, some tokens' logits.

Such a request runs in the same batches, over the same cached prefixes, as those that generate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cierzo.config import Pooling

Row = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Readout:
    """`pooling` asks for the hidden state after the final norm, `token_ids` for these tokens'
    logits after the last token."""

    pooling: Pooling | None = None
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """Token ids, and what to read off them."""

    token_ids: tuple[int, ...]
    readout: Readout


@dataclass(frozen=True, slots=True)
class Reading:
    """What was asked: `hidden` [dim] or None, `logits` [len(token_ids)]."""

    hidden: Row | None
    logits: Row


class MeanHidden:
    """The mean over a text's hidden states, which come a chunk at a time.

    Rows are added one after the other, so the mean does not depend on the chunks.
    """

    def __init__(self) -> None:
        self.num_tokens = 0
        self._sum: NDArray[np.float64] | None = None

    def add(self, rows: Row) -> None:
        for row in rows:
            self._sum = row.astype(np.float64) if self._sum is None else self._sum + row
        self.num_tokens += len(rows)

    def value(self) -> Row:
        assert self._sum is not None, "a prompt has at least one token"
        mean: Row = (self._sum / self.num_tokens).astype(np.float32)
        return mean


def unit_length(hidden: Row) -> Row:
    """`hidden` scaled to length 1 (zeros stay zeros)."""
    # In float32 the sum's order, and so its last bit, depends on where the row lies in memory.
    length = float(np.linalg.norm(hidden.astype(np.float64)))
    length = max(length, float(np.finfo(np.float32).tiny))
    scaled: Row = (hidden / length).astype(np.float32)
    return scaled
