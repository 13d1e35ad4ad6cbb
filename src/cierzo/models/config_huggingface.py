"""config.json → `ModelConfig`, as transformers 4 and 5 write it.

Hugging Face's field names and class defaults live here and nowhere else. A wrapper
with a vision tower is read for its text model only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cierzo.config import (
    Architecture,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    MoeConfig,
    QueryTemperature,
    RopeScaling,
)
from cierzo.models.config_checks import MAX_CONTEXT, check_config, unsupported, yarn_scaling
from cierzo.models.fields import Fields

_ARCHITECTURES: dict[str, Architecture] = {
    "mistral": "mistral",
    "ministral": "mistral",
    "mixtral": "mixtral",
    "ministral3": "ministral3",
    "llama": "llama",
}
_CLASSES = {
    "MistralForCausalLM": "mistral",
    "MinistralForCausalLM": "ministral",
    "MixtralForCausalLM": "mixtral",
    "Ministral3ForCausalLM": "ministral3",
    "LlamaForCausalLM": "llama",
}
_WRAPPER = "Mistral3ForConditionalGeneration"


def huggingface_config(values: Mapping[str, Any], origin: str, *, has_output: bool) -> ModelConfig:
    """`has_output`: the checkpoint holds an lm_head, which settles an unsaid tie.

    Raises ModelFileError for fields that are missing or impossible and
    UnsupportedModelError for models we do not run.
    """
    outer = Fields(values, origin)
    fields, model_type = _text_model(outer)
    architecture = _ARCHITECTURES[model_type]
    _refuse_unsupported(outer, fields)
    dim = fields.integer("hidden_size")
    n_heads = fields.integer("num_attention_heads")
    n_layers = fields.integer("num_hidden_layers", 1, 1024)
    max_seq_len = fields.integer("max_position_embeddings", 1, MAX_CONTEXT)
    rope = _rope_fields(fields)
    if architecture == "ministral3" and not rope.has("factor"):
        raise rope.error("rope_parameters", "must be given for ministral3", None)
    return check_config(
        ModelConfig(
            architecture=architecture,
            dim=dim,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=fields.integer(
                "num_key_value_heads", default=n_heads if model_type == "llama" else 8
            ),
            head_dim=fields.integer("head_dim", default=max(dim // n_heads, 1)),
            hidden_dim=fields.integer("intermediate_size"),
            vocab_size=fields.integer("vocab_size"),
            norm_eps=fields.number(
                "rms_norm_eps", default=1e-5 if model_type == "mixtral" else 1e-6
            ),
            rope_theta=_rope_theta(fields, rope, 1e6 if model_type == "mixtral" else 1e4),
            max_seq_len=max_seq_len,
            sliding_window=_sliding_window(fields, model_type, n_layers),
            tied_embeddings=_is_tied(outer, fields, has_output),
            rope_scaling=_rope_scaling(rope, max_seq_len),
            moe=_moe(fields) if architecture == "mixtral" else None,
            query_temperature=_query_temperature(rope),
        ),
        origin,
    )


def _text_model(outer: Fields) -> tuple[Fields, str]:
    """The fields of the text model and its model_type, refusing other architectures."""
    names = outer.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    model_type = outer.get("model_type")
    if name == _WRAPPER or (name is None and model_type == "mistral3"):
        text = outer.section("text_config")
        if text is None:
            raise outer.error("text_config", f"must be given for {_WRAPPER}", None)
        fields, model_type = text, text.text("model_type", "mistral")
    else:
        fields = outer
        if name is not None and name not in _CLASSES:
            raise unsupported(outer.origin, f"architecture {name}")
        if model_type is None and name is not None:
            model_type = _CLASSES[name]
    if not isinstance(model_type, str) or model_type not in _ARCHITECTURES:
        raise unsupported(outer.origin, f"model_type {model_type!r}")
    return fields, model_type


def _refuse_unsupported(outer: Fields, fields: Fields) -> None:
    origin = fields.origin
    activation = fields.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise unsupported(origin, f"hidden_act {activation!r}")
    for name in ("attention_bias", "mlp_bias"):
        if fields.flag(name, False):
            raise unsupported(origin, name)
    if fields.number("partial_rotary_factor", default=1.0) != 1.0:
        raise unsupported(origin, "a partial_rotary_factor")
    for place in (outer, fields):
        quantization = place.section("quantization_config")
        if quantization is None:
            continue
        method = quantization.text("quant_method", "unnamed")
        if method != "fp8":
            raise unsupported(origin, f"quantization method {method!r}")
        if quantization.has("weight_block_size"):
            raise unsupported(origin, "block-wise fp8 (weight_block_size)")


def _rope_fields(fields: Fields) -> Fields:
    """rope_parameters (transformers 5), else rope_scaling (4), else an empty object."""
    for name in ("rope_parameters", "rope_scaling"):
        section = fields.section(name)
        if section is not None:
            return section
    return Fields({}, fields.origin)


def _rope_theta(fields: Fields, rope: Fields, default: float) -> float:
    place = rope if rope.has("rope_theta") else fields
    return place.number("rope_theta", 1.0, 1e15, default=default)


def _rope_scaling(rope: Fields, max_seq_len: int) -> RopeScaling | None:
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return LinearScaling(rope.number("factor", 1e-6, 1e6))
    if kind == "llama3":
        return Llama3Scaling(
            rope.number("factor", 1e-6, 1e6),
            rope.number("low_freq_factor", 1e-6, 1e6),
            rope.number("high_freq_factor", 1e-6, 1e6),
            rope.integer("original_max_position_embeddings", 1, MAX_CONTEXT),
        )
    if kind == "yarn":
        return yarn_scaling(rope, max_seq_len)
    raise unsupported(rope.origin, f"RoPE scaling {kind!r}")


def _query_temperature(rope: Fields) -> QueryTemperature | None:
    beta = rope.number("llama_4_scaling_beta", default=0.0)
    if beta == 0.0:
        return None
    return QueryTemperature(beta, rope.integer("original_max_position_embeddings", 1, MAX_CONTEXT))


def _sliding_window(fields: Fields, model_type: str, n_layers: int) -> tuple[int | None, ...]:
    if model_type == "llama":
        return (None,) * n_layers
    # transformers' class default, used when the key is absent rather than null
    is_absent = "sliding_window" not in fields.names and model_type in ("mistral", "ministral")
    has_window = fields.has("sliding_window")
    window = fields.integer("sliding_window", 1, MAX_CONTEXT) if has_window else None
    if is_absent:
        window = 4096
    if not fields.has("layer_types"):
        return (window,) * n_layers
    layer_types = fields.items("layer_types")
    known = ("full_attention", "sliding_attention")
    if len(layer_types) != n_layers or any(kind not in known for kind in layer_types):
        raise fields.error("layer_types", f"must be {n_layers} of {known}", layer_types)
    if window is None and "sliding_attention" in layer_types:
        raise fields.error("sliding_window", "must be given for sliding layers", None)
    return tuple(window if kind == "sliding_attention" else None for kind in layer_types)


def _moe(fields: Fields) -> MoeConfig:
    return MoeConfig(
        fields.integer("num_local_experts", 1, 4096, default=8),
        fields.integer("num_experts_per_tok", 1, 4096, default=2),
    )


def _is_tied(outer: Fields, fields: Fields, has_output: bool) -> bool:
    for place in (fields, outer):
        if place.has("tie_word_embeddings"):
            return place.flag("tie_word_embeddings", False)
    return not has_output
