"""What holds for every `ModelConfig`, whatever file it came from, and its JSON form.

Knows no checkpoint format: the `config_*` modules fill a config, this one refuses
impossible or unsupported numbers before anything is allocated from them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

from cierzo.config import (
    Architecture,
    FrequencyFactors,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    MoeConfig,
    Pooling,
    QueryTemperature,
    RopeScaling,
    YarnScaling,
)
from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.models.fields import Fields

SUPPORTED = (
    "MistralForCausalLM, MinistralForCausalLM, MixtralForCausalLM, Ministral3ForCausalLM, "
    "LlamaForCausalLM, Mistral3ForConditionalGeneration (its text model), "
    "and GGUF files of architecture llama or mistral3"
)

MAX_CONTEXT = 2**27
MAX_HEAD_DIM = 256
"""What the attention kernels keep room for."""

_Require = Callable[[bool, str], None]
"""Refuses the file with the rule, the second argument, unless the first is true."""

_BOUNDS = {
    "dim": 2**17,
    "n_layers": 1024,
    "n_heads": 2048,
    "n_kv_heads": 2048,
    "head_dim": 1024,
    "hidden_dim": 2**20,
    "vocab_size": 2**22,
    "max_seq_len": MAX_CONTEXT,
}
_SCALINGS: dict[str, type[RopeScaling]] = {
    "yarn": YarnScaling,
    "llama3": Llama3Scaling,
    "linear": LinearScaling,
    "factors": FrequencyFactors,
}


def unsupported(origin: str, what: str) -> UnsupportedModelError:
    """The refusal of a sound file of a kind we do not run."""
    return UnsupportedModelError(f"{origin}: {what} is not supported. Cierzo runs {SUPPORTED}")


def check_config(config: ModelConfig, origin: str) -> ModelConfig:
    """`config` itself if a model of that shape can exist and run.

    Raises ModelFileError for impossible numbers, UnsupportedModelError for
    shapes the kernels do not take.
    """

    def require(holds: bool, rule: str) -> None:
        if not holds:
            raise ModelFileError(f"{origin}: {rule}")

    _check_numbers(config, require)
    _check_windows(config, require)
    if config.moe is not None:
        _check_experts(config.moe, require)
    if config.rope_scaling is not None:
        _check_scaling(config, config.rope_scaling, require)
    if config.query_temperature is not None:
        _check_temperature(config.query_temperature, require)
    if config.head_dim % 2:
        raise unsupported(origin, f"an odd head_dim ({config.head_dim})")
    if config.head_dim > MAX_HEAD_DIM:
        raise unsupported(origin, f"a head_dim over {MAX_HEAD_DIM} ({config.head_dim})")
    if config.hidden_dim % 16:
        raise unsupported(origin, f"a hidden_dim that is no multiple of 16 ({config.hidden_dim})")
    return config


def _check_numbers(config: ModelConfig, require: _Require) -> None:
    for name, high in _BOUNDS.items():
        value = getattr(config, name)
        require(
            type(value) is int and 1 <= value <= high,
            f"{name} must be a whole number between 1 and {high}, got {value!r:.40}",
        )
    require(
        config.architecture in get_args(Architecture),
        f"architecture must be one of {get_args(Architecture)}, got {config.architecture!r:.40}",
    )
    require(
        config.pooling in get_args(Pooling),
        f"pooling must be one of {get_args(Pooling)}, got {config.pooling!r:.40}",
    )
    require(
        config.n_heads % config.n_kv_heads == 0,
        f"n_heads {config.n_heads} must be a multiple of n_kv_heads {config.n_kv_heads}",
    )
    require(0 < config.norm_eps < 1, f"norm_eps must be in (0, 1), got {config.norm_eps}")
    require(
        1 < config.rope_theta <= 1e15, f"rope_theta must be in (1, 1e15], got {config.rope_theta}"
    )


def _check_windows(config: ModelConfig, require: _Require) -> None:
    require(
        len(config.sliding_window) == config.n_layers,
        f"{len(config.sliding_window)} sliding windows for {config.n_layers} layers",
    )
    for window in config.sliding_window:
        require(
            window is None or (type(window) is int and 1 <= window <= MAX_CONTEXT),
            f"sliding_window must be between 1 and {MAX_CONTEXT}, got {window!r:.40}",
        )


def _check_experts(moe: MoeConfig, require: _Require) -> None:
    chosen, num_experts = moe.num_experts_per_tok, moe.num_experts
    require(
        type(num_experts) is int and 1 <= num_experts <= 4096,
        f"num_experts must be in 1..4096, got {num_experts!r:.40}",
    )
    require(
        type(chosen) is int and 1 <= chosen <= num_experts,
        f"num_experts_per_tok must be in 1..{num_experts}, got {chosen!r:.40}",
    )


def _check_temperature(temperature: QueryTemperature, require: _Require) -> None:
    require(0 < temperature.beta <= 100, f"temperature beta {temperature.beta} is absurd")
    require(
        1 <= temperature.original_max_position_embeddings <= MAX_CONTEXT,
        "original_max_position_embeddings must be positive",
    )


def _check_scaling(config: ModelConfig, scaling: RopeScaling, require: _Require) -> None:
    if isinstance(scaling, FrequencyFactors):
        require(
            len(scaling.factors) == config.head_dim // 2,
            f"{len(scaling.factors)} RoPE factors for head_dim {config.head_dim}",
        )
        require(
            all(math.isfinite(factor) and factor > 0 for factor in scaling.factors),
            "RoPE factors must be positive and finite",
        )
        return
    for field in dataclasses.fields(scaling):
        value = getattr(scaling, field.name)
        may_be_zero = field.name in ("mscale", "mscale_all_dim")
        require(
            value is None or (0 <= value if may_be_zero else 0 < value) and value <= 1e9,
            f"RoPE scaling's {field.name} must be positive and finite, got {value}",
        )
    if isinstance(scaling, Llama3Scaling):
        require(
            scaling.low_freq_factor < scaling.high_freq_factor,
            "RoPE scaling's low_freq_factor must be below its high_freq_factor",
        )


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """A JSON object that `config_from_json` turns back into an equal config."""
    values = dataclasses.asdict(config)
    if config.rope_scaling is not None:
        kind = next(kind for kind, cls in _SCALINGS.items() if type(config.rope_scaling) is cls)
        values["rope_scaling"] = {"kind": kind, **values["rope_scaling"]}
    return values


def config_from_json(values: Mapping[str, Any], origin: str) -> ModelConfig:
    """The inverse of `config_to_json`, checked; raises ModelFileError."""
    try:
        fields = dict(values)
        fields["sliding_window"] = tuple(fields["sliding_window"])
        for name, cls in (("moe", MoeConfig), ("query_temperature", QueryTemperature)):
            if fields[name] is not None:
                fields[name] = cls(**fields[name])
        if fields["rope_scaling"] is not None:
            scaling = dict(fields["rope_scaling"])
            scaling_class = _SCALINGS[scaling.pop("kind")]
            if "factors" in scaling:
                scaling["factors"] = tuple(scaling["factors"])
            fields["rope_scaling"] = scaling_class(**scaling)
        return check_config(ModelConfig(**fields), origin)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelFileError(f"{origin}: not a model configuration ({error!r})") from error


def yarn_scaling(fields: Fields, default_original: int) -> YarnScaling:
    """YaRN from an object with Hugging Face's field names."""
    if not fields.flag("truncate", True):
        raise unsupported(fields.origin, "YaRN with truncate = false")
    return YarnScaling(
        factor=fields.number("factor", 1e-6, 1e6),
        original_max_position_embeddings=fields.integer(
            "original_max_position_embeddings", 1, MAX_CONTEXT, default=default_original
        ),
        beta_fast=fields.number("beta_fast", 1e-6, 1e6, default=32.0),
        beta_slow=fields.number("beta_slow", 1e-6, 1e6, default=1.0),
        mscale=fields.optional_number("mscale"),
        mscale_all_dim=fields.optional_number("mscale_all_dim"),
        attention_factor=fields.optional_number("attention_factor", 1e-6, 1e6),
    )
