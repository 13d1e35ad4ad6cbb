"""What the logits are compared on: each architecture at bf16 and quantised, two in every GGUF type.

A case is a tiny model as one kind of file holds it. Its gold logits are those of
`transformers` in float32 on exactly the weights the file holds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cierzo import kernels
from cierzo.config import ModelConfig
from cierzo.kernels.reference import dequantize
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
from tests.tiny_models import Float32

TOKEN_IDS: list[int] = np.random.default_rng(7).integers(3, 320, 80).tolist()
"""Longer than every window (24) and every trained context (32, 64) of the tiny models."""

GOLD_ROWS: NDArray[np.int32] = np.arange(4, 80, 5, dtype=np.int32)
GOLD_FILE = Path(__file__).parent.parent / "gold" / "logits.npz"

_K_QUANT_SHAPE = {"dim": 256, "hidden_dim": 256, "head_dim": 64}
_WHOLE = (BlockType.F32, BlockType.F16, BlockType.BF16)


@dataclass(frozen=True)
class Case:
    """A bf16 checkpoint of any format; with `dtype`, packed to it by us; or a GGUF of a type."""

    config_name: str
    block_type: BlockType | None = None
    dtype: Literal["int4", "int8"] | None = None

    @property
    def name(self) -> str:
        kind = "bf16" if self.block_type is None else self.block_type.name
        return f"{self.config_name}.{self.dtype or kind}"

    def model(self) -> TinyModel:
        is_k_quant = self.block_type is not None and self.block_type.name.endswith("_K")
        return tiny_model(self.config_name, **(_K_QUANT_SHAPE if is_k_quant else {}))

    def weights(self, scratch: Path) -> Weights:
        """The weights such a file holds, in our names."""
        model = self.model()
        if self.dtype is not None:
            return {
                name: _quantised(name, rounded(array, "bf16"), self.dtype)
                for name, array in model.weights.items()
            }
        if self.block_type is None:
            return {name: rounded(array, "bf16") for name, array in model.weights.items()}
        return write_gguf(scratch / f"{self.name}.gguf", model, block_type=self.block_type)


def _quantised(name: str, array: Float32, dtype: Literal["int4", "int8"]) -> Float32:
    """What is left of a matrix once quantised by us. Norms and routers stay float32; at int4 the
    embedding and the output keep eight bits."""
    if array.ndim == 1 or name.endswith("router"):
        return array
    is_vocabulary = name in ("embedding", "output")
    bits = 4 if dtype == "int4" and not is_vocabulary else 8
    return dequantize(*kernels.quantize(array, bits), bits)


BF16_CASES = [Case(name) for name in TINY_CONFIGS]
GGUF_CASES = [
    Case(name, block_type)
    for name in ("mistral", "mixtral")
    for block_type in BLOCK_TYPES
    if block_type not in _WHOLE
]
GGUF_CASES += [
    Case(name, block_type)
    for name in ("mistral-window", "ministral3", "llama", "llama3", "llama-linear")
    for block_type in (BlockType.Q4_1, BlockType.Q8_0)
]
PACKED_CASES = [
    Case(name, dtype=dtype)
    for name in ("mistral", "mixtral", "ministral3", "llama3")
    for dtype in ("int4", "int8")
]
CASES = BF16_CASES + GGUF_CASES + PACKED_CASES


def fingerprint(weights: Weights, config: ModelConfig) -> str:
    """Changes with any weight: gold logits of other weights are no gold."""
    digest = hashlib.sha256(repr(config).encode())
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].tobytes())
    return digest.hexdigest()[:16]
