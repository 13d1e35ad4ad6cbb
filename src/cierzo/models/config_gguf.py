"""GGUF metadata → `ModelConfig`, for architectures llama (Mixtral included) and mistral3."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cierzo.config import (
    Architecture,
    FrequencyFactors,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    MoeConfig,
    QueryTemperature,
    RopeScaling,
    YarnScaling,
)
from cierzo.models.config_checks import MAX_CONTEXT, check_config, unsupported
from cierzo.models.fields import Fields

_LLAMA3_ORIGINAL_CONTEXT = 8192
_MEAN = 1
"""GGUF's number for mean pooling."""

_UNSUPPORTED_COUNTS = (
    "expert_shared_count",
    "leading_dense_block_count",
    "expert_group_count",
    "attention.q_lora_rank",
    "attention.kv_lora_rank",
)


def gguf_config(
    metadata: Mapping[str, Any],
    origin: str,
    *,
    has_output: bool,
    rope_factors: NDArray[np.float32] | None = None,
) -> ModelConfig:
    """`rope_factors` is the file's rope_freqs.weight [head_dim / 2], if it has one.

    Raises ModelFileError for fields that are missing or impossible and
    UnsupportedModelError for models we do not run.
    """
    arch = Fields(metadata, origin).text("general.architecture")
    if arch not in ("llama", "mistral3"):
        raise unsupported(origin, f"GGUF architecture {arch!r}")
    fields = Fields(metadata, origin, prefix=f"{arch}.")
    for name in _UNSUPPORTED_COUNTS:
        if fields.integer(name, 0, default=0):
            raise unsupported(origin, f"{arch}.{name}")
    dim = fields.integer("embedding_length")
    n_heads = _per_layer_integer(fields, "attention.head_count")
    head_dim = fields.integer("attention.key_length", default=max(dim // n_heads, 1))
    for name in ("attention.value_length", "rope.dimension_count"):
        value = fields.integer(name, default=head_dim)
        if value != head_dim:
            raise unsupported(origin, f"{arch}.{name} {value} with a head_dim of {head_dim}")
    n_layers = fields.integer("block_count", 1, 1024)
    rope_theta = fields.number("rope.freq_base", 1.0, 1e15, default=1e4)
    moe = _moe(fields)
    architecture: Architecture = "ministral3" if arch == "mistral3" else "llama"
    scaling = _rope_scaling(fields)
    if rope_factors is not None:
        if scaling is not None:
            raise unsupported(origin, "rope_freqs.weight together with rope.scaling")
        scaling = scaling_from_factors(rope_factors, rope_theta, head_dim)
    return check_config(
        ModelConfig(
            architecture="mixtral" if moe is not None else architecture,
            dim=dim,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=_per_layer_integer(fields, "attention.head_count_kv", default=n_heads),
            head_dim=head_dim,
            hidden_dim=_per_layer_integer(fields, "feed_forward_length"),
            vocab_size=fields.integer("vocab_size", default=_num_tokens(metadata)),
            norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
            rope_theta=rope_theta,
            max_seq_len=fields.integer("context_length", 1, MAX_CONTEXT),
            sliding_window=_sliding_window(fields, n_layers),
            tied_embeddings=not has_output,
            rope_scaling=scaling,
            moe=moe,
            query_temperature=_query_temperature(fields),
            pooling="mean" if fields.integer("pooling_type", 0, default=0) == _MEAN else "last",
        ),
        origin,
    )


def scaling_from_factors(
    factors: NDArray[np.float32], rope_theta: float, head_dim: int
) -> RopeScaling | None:
    """Llama 3.1's formula where it gives these factors, else the factors themselves.

    Converters write the table for every Llama 3.1+ file; all of those share the
    formula's constants but for `factor`, which is the table's maximum.
    """
    if len(factors) != head_dim // 2 or not np.all(np.isfinite(factors)) or np.all(factors == 1):
        return None if np.all(factors == 1) else FrequencyFactors(tuple(map(float, factors)))
    scaling = Llama3Scaling(float(factors.max()), 1.0, 4.0, _LLAMA3_ORIGINAL_CONTEXT)
    frequencies = rope_theta ** -(np.arange(0, head_dim, 2) / head_dim)
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    keep = np.clip((turns - scaling.low_freq_factor) / 3.0, 0.0, 1.0)
    expected = 1 / (keep + (1 - keep) / scaling.factor)
    if np.allclose(factors, expected, rtol=1e-4):
        return scaling
    return FrequencyFactors(tuple(map(float, factors)))


def _per_layer_integer(fields: Fields, name: str, default: int | None = None) -> int:
    """A number, or an array of one number per layer, which must then be all the same."""
    value = fields.get(name)
    if isinstance(value, np.ndarray):
        distinct = set(value.tolist())
        if len(distinct) != 1:
            raise unsupported(fields.origin, f"{name} that differs between layers")
        value = distinct.pop()
        return Fields({name: value}, fields.origin).integer(name)
    return fields.integer(name, default=default)


def _num_tokens(metadata: Mapping[str, Any]) -> int | None:
    tokens = metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, list) else None


def _moe(fields: Fields) -> MoeConfig | None:
    num_experts = fields.integer("expert_count", 0, 4096, default=0)
    if num_experts == 0:
        return None
    if fields.integer("expert_gating_func", 0, default=1) > 1:
        raise unsupported(fields.origin, "expert gating other than softmax")
    return MoeConfig(num_experts, fields.integer("expert_used_count", 1, 4096))


def _sliding_window(fields: Fields, n_layers: int) -> tuple[int | None, ...]:
    window = fields.integer("attention.sliding_window", 0, MAX_CONTEXT, default=0) or None
    pattern = fields.get("attention.sliding_window_pattern")
    if window is None or pattern is None:
        return (window,) * n_layers
    if not isinstance(pattern, np.ndarray) or len(pattern) != n_layers:
        raise unsupported(fields.origin, f"sliding_window_pattern that is no list of {n_layers}")
    return tuple(window if is_sliding else None for is_sliding in pattern.tolist())


def _rope_scaling(fields: Fields) -> RopeScaling | None:
    kind = fields.text("rope.scaling.type", "none")
    linear = fields.number("rope.scale_linear", 1e-6, 1e6, default=1.0)
    factor = fields.number("rope.scaling.factor", 0.0, 1e6, default=linear)
    if kind == "yarn":
        return _yarn(fields)
    if kind not in ("none", "linear"):
        raise unsupported(fields.origin, f"RoPE scaling {kind!r}")
    # Files from before the type key give a bare linear factor; 0 and 1 mean none.
    return LinearScaling(factor) if factor not in (0.0, 1.0) else None


def _yarn(fields: Fields) -> YarnScaling:
    """`yarn_log_multiplier` is mscale_all_dim with mscale 1; 0 or absent leaves both unset.

    A given attn_factor multiplies the derived attention factor.
    """
    factor = fields.number("rope.scaling.factor", 1e-6, 1e6)
    log_multiplier = fields.number("rope.scaling.yarn_log_multiplier", default=0.0)
    extra = fields.number("rope.scaling.attn_factor", 1e-6, 1e6, default=1.0)
    attention_factor = None
    if extra != 1.0:
        grow = 0.1 * math.log(max(factor, 1.0))
        attention_factor = extra * (1 + grow) / (1 + grow * log_multiplier)
    return YarnScaling(
        factor=factor,
        original_max_position_embeddings=fields.integer(
            "rope.scaling.original_context_length", 1, MAX_CONTEXT
        ),
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", 1e-6, 1e6, default=32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1e-6, 1e6, default=1.0),
        mscale=1.0 if log_multiplier else None,
        mscale_all_dim=log_multiplier or None,
        attention_factor=attention_factor,
    )


def _query_temperature(fields: Fields) -> QueryTemperature | None:
    beta = fields.number("attention.temperature_scale", default=0.0)
    if beta == 0.0:
        return None
    name = "attention.temperature_length"
    if not fields.has(name):
        name = "rope.scaling.original_context_length"
    return QueryTemperature(beta, fields.integer(name, 1, MAX_CONTEXT))
