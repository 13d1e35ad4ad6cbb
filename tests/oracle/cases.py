"""What the logits are compared on: each architecture at bf16, and quantised GGUF of two of them.

A case is a tiny model as one kind of file holds it. Its gold logits are those of
`transformers` in float32 on exactly the weights the file holds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cierzo.config import ModelConfig
from tests.tiny_checkpoints import (
    BLOCK_TYPES,
    TINY_CONFIGS,
    BlockType,
    TinyModel,
    Weights,
    rounded,
    tiny_model,
    write_gguf,
)

TOKEN_IDS: list[int] = np.random.default_rng(7).integers(3, 320, 80).tolist()
"""Longer than every window (24) and every trained context (32, 64) of the tiny models."""

GOLD_ROWS: NDArray[np.int32] = np.arange(4, 80, 5, dtype=np.int32)
GOLD_FILE = Path(__file__).parent.parent / "gold" / "logits.npz"

_K_QUANT_SHAPE = {"dim": 256, "hidden_dim": 256, "head_dim": 64}
_WHOLE = (BlockType.F32, BlockType.F16, BlockType.BF16)


@dataclass(frozen=True)
class Case:
    """`block_type` None: a bf16 checkpoint of any format; else a GGUF of that type."""

    config_name: str
    block_type: BlockType | None = None

    @property
    def name(self) -> str:
        kind = "bf16" if self.block_type is None else self.block_type.name
        return f"{self.config_name}.{kind}"

    def model(self) -> TinyModel:
        is_k_quant = self.block_type is not None and self.block_type.name.endswith("_K")
        return tiny_model(self.config_name, **(_K_QUANT_SHAPE if is_k_quant else {}))

    def weights(self, scratch: Path) -> Weights:
        """The weights such a file holds, in our names."""
        model = self.model()
        if self.block_type is None:
            return {name: rounded(array, "bf16") for name, array in model.weights.items()}
        return write_gguf(scratch / f"{self.name}.gguf", model, block_type=self.block_type)


BF16_CASES = [Case(name) for name in TINY_CONFIGS]
GGUF_CASES = [
    Case(name, block_type)
    for name in ("mistral", "mixtral")
    for block_type in BLOCK_TYPES
    if block_type not in _WHOLE
]
CASES = BF16_CASES + GGUF_CASES


def fingerprint(weights: Weights, config: ModelConfig) -> str:
    """Changes with any weight: gold logits of other weights are no gold."""
    digest = hashlib.sha256(repr(config).encode())
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].tobytes())
    return digest.hexdigest()[:16]
