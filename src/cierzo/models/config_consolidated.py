"""params.json → `ModelConfig`: Mistral's own format, whose names are ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cierzo.config import Architecture, ModelConfig, MoeConfig, QueryTemperature, YarnScaling
from cierzo.models.config_checks import MAX_CONTEXT, check_config, unsupported
from cierzo.models.fields import Fields

_DEFAULT_CONTEXT = 128_000
"""Most params.json say nothing of the context; this is what the vendor's tools assume."""

_OTHER_ARCHITECTURES = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim")


def consolidated_config(values: Mapping[str, Any], origin: str, *, has_output: bool) -> ModelConfig:
    """`has_output`: the checkpoint holds an output matrix, which settles an unsaid tie.

    Raises ModelFileError for fields that are missing or impossible and
    UnsupportedModelError for models we do not run.
    """
    fields = Fields(values, origin)
    _refuse_unsupported(fields)
    n_layers = fields.integer("n_layers", 1, 1024)
    n_heads = fields.integer("n_heads")
    dim = fields.integer("dim")
    windows = _sliding_window(fields, n_layers)
    yarn, temperature, moe = _yarn(fields), _query_temperature(fields), _moe(fields)
    architecture: Architecture = "mistral"
    if moe is not None:
        architecture = "mixtral"
    elif yarn is not None or temperature is not None:
        architecture = "ministral3"
    context_name = "max_seq_len" if fields.has("max_seq_len") else "max_position_embeddings"
    return check_config(
        ModelConfig(
            architecture=architecture,
            dim=dim,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=fields.integer("n_kv_heads", default=n_heads),
            head_dim=fields.integer("head_dim", default=max(dim // n_heads, 1)),
            hidden_dim=fields.integer("hidden_dim"),
            vocab_size=fields.integer("vocab_size"),
            norm_eps=fields.number("norm_eps"),
            # Only Mistral 7B v0.1 has neither theta nor full attention.
            rope_theta=fields.number("rope_theta", 1.0, 1e15, default=1e4 if windows[-1] else 1e6),
            max_seq_len=fields.integer(context_name, 1, MAX_CONTEXT, default=_DEFAULT_CONTEXT),
            sliding_window=windows,
            tied_embeddings=fields.flag("tied_embeddings", not has_output),
            rope_scaling=yarn,
            moe=moe,
            query_temperature=temperature,
        ),
        origin,
    )


def _refuse_unsupported(fields: Fields) -> None:
    for name in _OTHER_ARCHITECTURES:
        if fields.has(name):
            raise unsupported(fields.origin, f"latent attention ({name})")
    model_type = fields.text("model_type", "transformer")
    if model_type != "transformer":
        raise unsupported(fields.origin, f"model_type {model_type!r}")
    quantization = fields.section("quantization")
    if quantization is not None:
        kind = quantization.text("qformat_weight", "unnamed")
        if kind != "fp8_e4m3":
            raise unsupported(fields.origin, f"quantization {kind!r}")


def _sliding_window(fields: Fields, n_layers: int) -> tuple[int | None, ...]:
    """A number for all layers, or a list repeated over them, e.g. [null, 32768, 32768, 32768]."""
    name = "sliding_window" if fields.has("sliding_window") else "_sliding_window"
    value = fields.get(name)
    pattern = value if isinstance(value, list) else [value]
    if not pattern or len(pattern) > n_layers:
        raise fields.error(name, f"must list 1 to {n_layers} windows", value)
    for window in pattern:
        if window is not None and (isinstance(window, bool) or not isinstance(window, int)):
            raise fields.error(name, "must hold whole numbers or null", value)
    return tuple(pattern[layer % len(pattern)] for layer in range(n_layers))


def _yarn(fields: Fields) -> YarnScaling | None:
    yarn = fields.section("yarn")
    if yarn is None:
        return None
    return YarnScaling(
        factor=yarn.number("factor", 1e-6, 1e6),
        original_max_position_embeddings=yarn.integer(
            "original_max_position_embeddings", 1, MAX_CONTEXT
        ),
        beta_fast=yarn.number("beta", 1e-6, 1e6, default=32.0),
        beta_slow=yarn.number("alpha", 1e-6, 1e6, default=1.0),
        attention_factor=None if yarn.flag("apply_scale", True) else 1.0,
    )


def _query_temperature(fields: Fields) -> QueryTemperature | None:
    scaling = fields.section("llama_4_scaling")
    if scaling is None:
        return None
    beta = scaling.number("beta")
    original = scaling.integer("original_max_position_embeddings", 1, MAX_CONTEXT)
    return QueryTemperature(beta, original) if beta else None


def _moe(fields: Fields) -> MoeConfig | None:
    moe = fields.section("moe")
    if moe is None:
        return None
    for name in ("num_shared_experts", "first_k_dense_replace"):
        if moe.integer(name, 0, default=0):
            raise unsupported(fields.origin, f"a sparse layer with {name}")
    return MoeConfig(
        moe.integer("num_experts", 1, 4096), moe.integer("num_experts_per_tok", 1, 4096, default=2)
    )
