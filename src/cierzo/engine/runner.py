"""Runs a batch: owns the model and the KV cache that its sequences' blocks lie in."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cierzo.config import ModelConfig
from cierzo.engine.batch import Batch
from cierzo.kernels import Tensor
from cierzo.models.transformer import StepArrays


class Model(Protocol):
    """What the engine needs of a model (`models.Transformer`).

    The KV cache is the model's own; the engine only carries it, hence Any.
    """

    @property
    def config(self) -> ModelConfig: ...

    def new_kv_cache(self, num_blocks: int) -> Any: ...

    def forward(
        self, step: StepArrays, kv_cache: Any, logits_rows: NDArray[np.int32]
    ) -> Tensor: ...


class ModelRunner:
    """One model with room for `num_blocks` blocks of KV. Not thread-safe: one step at a time."""

    def __init__(self, model: Model, num_blocks: int) -> None:
        self.model = model
        self._kv_cache = model.new_kv_cache(num_blocks)

    def run(self, batch: Batch) -> Tensor:
        """Logits [len(batch.logits_rows), vocab_size]; valid until the next step."""
        return self.model.forward(batch.arrays, self._kv_cache, batch.logits_rows)
