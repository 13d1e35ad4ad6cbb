"""Tiny random models: a config and float32 weights in our own names.

Names are `embedding`, `layers.0.q_proj`, `layers.0.experts.3.gate_proj`, …; RoPE rows
are half-split. `tiny_checkpoints.py` writes them in every format.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cierzo.config import (
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    MoeConfig,
    QueryTemperature,
    YarnScaling,
)

Float32 = NDArray[np.float32]
Weights = dict[str, Float32]
FloatDtype = Literal["f32", "f16", "bf16"]

TINY = ModelConfig(
    architecture="mistral",
    dim=64,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=32,
    hidden_dim=96,
    vocab_size=320,
    norm_eps=1e-5,
    rope_theta=10000.0,
    max_seq_len=512,
    sliding_window=(None, None),
)
"""head_dim is not dim / n_heads on purpose (as in Nemo and Mistral Small)."""

TINY_CONFIGS: dict[str, ModelConfig] = {
    "mistral": TINY,
    "mistral-window": replace(TINY, sliding_window=(24, 24)),
    "mistral-window-list": replace(TINY, n_layers=4, sliding_window=(None, 24, 24, 24)),
    "mixtral": replace(TINY, architecture="mixtral", moe=MoeConfig(4, 2), rope_theta=1e6),
    "ministral3": replace(
        TINY,
        architecture="ministral3",
        tied_embeddings=True,
        rope_theta=1e6,
        rope_scaling=YarnScaling(16.0, 32, mscale=1.0, mscale_all_dim=1.0),
        query_temperature=QueryTemperature(0.1, 32),
    ),
    "llama": replace(TINY, architecture="llama", n_kv_heads=4),
    "llama3": replace(
        TINY,
        architecture="llama",
        tied_embeddings=True,
        rope_theta=5e5,
        rope_scaling=Llama3Scaling(8.0, 1.0, 4.0, 64),
    ),
    "llama-linear": replace(TINY, architecture="llama", rope_scaling=LinearScaling(4.0)),
}


@dataclass(frozen=True)
class TinyModel:
    """A config and its weights: float32 [n_out, n_in] (norms [n]), in our own names."""

    config: ModelConfig
    weights: Weights


def tiny_model(name: str = "mistral", *, seed: int = 0, **changes: Any) -> TinyModel:
    """The named tiny model with random weights; `changes` replace fields of its config.

    K-quants need rows of 256: pass `dim=256, hidden_dim=256, head_dim=64`.
    """
    config = replace(TINY_CONFIGS[name], **changes)
    if len(config.sliding_window) != config.n_layers:
        config = replace(config, sliding_window=(config.sliding_window[-1],) * config.n_layers)
    return TinyModel(config, _random_weights(config, np.random.default_rng(seed)))


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Our name → shape of every tensor of the model, experts one by one."""
    c = config
    q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    feed_forward = {
        "gate_proj": (c.hidden_dim, c.dim),
        "up_proj": (c.hidden_dim, c.dim),
        "down_proj": (c.dim, c.hidden_dim),
    }
    shapes: dict[str, tuple[int, ...]] = {"embedding": (c.vocab_size, c.dim), "norm": (c.dim,)}
    if not c.tied_embeddings:
        shapes["output"] = (c.vocab_size, c.dim)
    for n in range(c.n_layers):
        layer: dict[str, tuple[int, ...]] = {
            "attention_norm": (c.dim,),
            "q_proj": (q_dim, c.dim),
            "k_proj": (kv_dim, c.dim),
            "v_proj": (kv_dim, c.dim),
            "o_proj": (c.dim, q_dim),
            "feed_forward_norm": (c.dim,),
        }
        if c.moe is None:
            layer |= feed_forward
        else:
            layer["router"] = (c.moe.num_experts, c.dim)
            for e in range(c.moe.num_experts):
                layer |= {f"experts.{e}.{name}": shape for name, shape in feed_forward.items()}
        shapes |= {f"layers.{n}.{name}": shape for name, shape in layer.items()}
    return shapes


def _random_weights(config: ModelConfig, rng: np.random.Generator) -> Weights:
    weights: Weights = {}
    for name, shape in weight_shapes(config).items():
        values = rng.standard_normal(shape, dtype=np.float32)
        is_norm = len(shape) == 1
        scaled = 1 + values / 10 if is_norm else values / math.sqrt(shape[-1])
        weights[name] = scaled.astype(np.float32)
    return weights


def stacked_experts(model: TinyModel, layer: int) -> tuple[Float32, Float32, Float32]:
    """gate and up [num_experts, hidden_dim, dim], down [num_experts, dim, hidden_dim]."""
    assert model.config.moe is not None
    gate, up, down = (
        np.stack(
            [
                model.weights[f"layers.{layer}.experts.{e}.{name}"]
                for e in range(model.config.moe.num_experts)
            ]
        )
        for name in ("gate_proj", "up_proj", "down_proj")
    )
    return gate, up, down


def interleaved(array: Float32, role: str, config: ModelConfig) -> Float32:
    """q and k rows from half-split to interleaved pairs; everything else as it is."""
    if role not in ("q_proj", "k_proj"):
        return array
    n_heads = config.n_heads if role == "q_proj" else config.n_kv_heads
    heads = array.reshape(n_heads, 2, config.head_dim // 2, array.shape[1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(array.shape)


def to_bf16(array: Float32) -> NDArray[np.uint16]:
    """Bit patterns, rounded to nearest even."""
    bits = array.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype(np.uint16)


def rounded(array: Float32, dtype: FloatDtype) -> Float32:
    """What remains of `array` once stored as `dtype`."""
    if dtype == "f16":
        return array.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        return (to_bf16(array).astype(np.uint32) << 16).view(np.float32)
    return array
