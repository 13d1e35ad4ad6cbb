"""Tiny random checkpoints of every architecture we run, written in every format.

Each writer stores a `TinyModel` as the world does (names, permutation, block types)
and returns the weights the file now really holds, i.e. after rounding or quantising:
the truth to compare with. Uses the `safetensors` package, never our own reader.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGMLQuantizationType as BlockType
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize_file

from cierzo.config import LinearScaling, Llama3Scaling, ModelConfig, YarnScaling
from tests.tiny_gguf import BLOCK_TYPES, CHAT_TEMPLATE, K_QUANTS, write_gguf
from tests.tiny_models import (
    TINY_CONFIGS,
    FloatDtype,
    TinyModel,
    Weights,
    interleaved,
    rounded,
    stacked_experts,
    tiny_model,
    to_bf16,
    weight_shapes,
)

__all__ = [
    "BLOCK_TYPES",
    "CHAT_TEMPLATE",
    "K_QUANTS",
    "TINY_CONFIGS",
    "BlockType",
    "TinyModel",
    "Weights",
    "rounded",
    "tiny_model",
    "weight_shapes",
    "write_consolidated",
    "write_gguf",
    "write_huggingface",
    "write_safetensors",
    "consolidated_params",
    "huggingface_config",
]


def write_huggingface(
    folder: Path,
    model: TinyModel,
    *,
    dtype: FloatDtype = "bf16",
    num_shards: int = 1,
    style: Literal["4", "5"] = "4",
    merged_experts: bool = False,
    wrapped: bool = False,
) -> Weights:
    """config.json and model*.safetensors. `style` is transformers' major version.

    `wrapped` nests the text model as Mistral3ForConditionalGeneration does, with a
    vision tensor that a reader must skip.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = huggingface_config(model.config, style)
    config = text
    if wrapped:
        config = {
            "architectures": ["Mistral3ForConditionalGeneration"],
            "model_type": "mistral3",
            "text_config": text,
            "vision_config": {"model_type": "pixtral", "hidden_size": 8},
        }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tensors = {
        _wrap(name, style) if wrapped else name: array
        for name, array in _huggingface_tensors(model, style, merged_experts).items()
    }
    if wrapped:
        prefix = "model." if style == "5" else ""
        tensors[f"{prefix}vision_tower.patch_conv.weight"] = np.ones((2, 2), np.float32)
    _write_shards(folder, tensors, dtype, "model", num_shards)
    return {name: rounded(array, dtype) for name, array in model.weights.items()}


def huggingface_config(config: ModelConfig, style: Literal["4", "5"]) -> dict[str, Any]:
    """config.json as transformers 4 or 5 would save it."""
    c = config
    classes = {
        "mistral": ("MistralForCausalLM", "mistral"),
        "mixtral": ("MixtralForCausalLM", "mixtral"),
        "ministral3": ("Ministral3ForCausalLM", "ministral3"),
        "llama": ("LlamaForCausalLM", "llama"),
    }
    windows = {window for window in c.sliding_window if window is not None}
    is_mixed = bool(windows) and None in c.sliding_window
    name, model_type = classes[c.architecture]
    if is_mixed:
        name, model_type = "MinistralForCausalLM", "ministral"
    out: dict[str, Any] = {
        "architectures": [name],
        "model_type": model_type,
        "hidden_size": c.dim,
        "intermediate_size": c.hidden_dim,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.head_dim,
        "vocab_size": c.vocab_size,
        "rms_norm_eps": c.norm_eps,
        "max_position_embeddings": c.max_seq_len,
        "hidden_act": "silu",
        "tie_word_embeddings": c.tied_embeddings,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attention_dropout": 0.0,
    }
    if c.architecture != "llama":
        out["sliding_window"] = windows.pop() if windows else None
    if is_mixed:
        out["layer_types"] = [
            "full_attention" if window is None else "sliding_attention"
            for window in c.sliding_window
        ]
    if c.moe is not None:
        out["num_local_experts"] = c.moe.num_experts
        out["num_experts_per_tok"] = c.moe.num_experts_per_tok
    rope = _huggingface_rope(config)
    if style == "5" or c.query_temperature is not None:
        out["rope_parameters"] = {"rope_theta": c.rope_theta, **(rope or {"rope_type": "default"})}
    else:
        out["rope_theta"] = c.rope_theta
        out["rope_scaling"] = rope
    out["dtype" if style == "5" else "torch_dtype"] = "bfloat16"
    return out


def _huggingface_rope(config: ModelConfig) -> dict[str, Any] | None:
    match config.rope_scaling:
        case YarnScaling() as yarn:
            rope: dict[str, Any] = {
                "rope_type": "yarn",
                "type": "yarn",
                "factor": yarn.factor,
                "original_max_position_embeddings": yarn.original_max_position_embeddings,
                "beta_fast": yarn.beta_fast,
                "beta_slow": yarn.beta_slow,
                "mscale": yarn.mscale,
                "mscale_all_dim": yarn.mscale_all_dim,
            }
            if config.query_temperature is not None:
                rope["llama_4_scaling_beta"] = config.query_temperature.beta
            return rope
        case Llama3Scaling() as llama3:
            return {
                "rope_type": "llama3",
                "factor": llama3.factor,
                "low_freq_factor": llama3.low_freq_factor,
                "high_freq_factor": llama3.high_freq_factor,
                "original_max_position_embeddings": llama3.original_max_position_embeddings,
            }
        case LinearScaling(factor=factor):
            return {"rope_type": "linear", "factor": factor}
        case _:
            return None


_HUGGINGFACE_LAYER = {
    "attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
}
_HUGGINGFACE_TOP = {
    "embedding": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
}
_W_NAMES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def _huggingface_tensors(model: TinyModel, style: str, merged_experts: bool) -> Weights:
    tensors: Weights = {}
    for name, array in model.weights.items():
        if name in _HUGGINGFACE_TOP:
            tensors[_HUGGINGFACE_TOP[name] + ".weight"] = array
            continue
        _, number, *role = name.split(".")
        prefix = f"model.layers.{number}."
        if role[0] == "router":
            router = "mlp.gate" if style == "5" and merged_experts else "block_sparse_moe.gate"
            tensors[f"{prefix}{router}.weight"] = array
        elif role[0] == "experts" and not merged_experts:
            expert = f"block_sparse_moe.experts.{role[1]}.{_W_NAMES[role[2]]}"
            tensors[f"{prefix}{expert}.weight"] = array
        elif role[0] != "experts":
            tensors[f"{prefix}{_HUGGINGFACE_LAYER[role[0]]}.weight"] = array
    if model.config.moe is not None and merged_experts:
        for n in range(model.config.n_layers):
            gate, up, down = stacked_experts(model, n)
            tensors[f"model.layers.{n}.mlp.experts.gate_up_proj"] = np.concatenate([gate, up], 1)
            tensors[f"model.layers.{n}.mlp.experts.down_proj"] = down
    return tensors


def _wrap(name: str, style: str) -> str:
    if style == "5":
        return name.replace("model.", "model.language_model.", 1)
    return f"language_model.{name}"


def write_consolidated(
    folder: Path, model: TinyModel, *, dtype: FloatDtype = "bf16", num_shards: int = 1
) -> Weights:
    """params.json and consolidated*.safetensors; q and k rows interleaved."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.json").write_text(json.dumps(consolidated_params(model.config)))
    tensors: Weights = {}
    top = {"embedding": "tok_embeddings", "norm": "norm", "output": "output"}
    layer_names = {
        "attention_norm": "attention_norm",
        "feed_forward_norm": "ffn_norm",
        "q_proj": "attention.wq",
        "k_proj": "attention.wk",
        "v_proj": "attention.wv",
        "o_proj": "attention.wo",
        "gate_proj": "feed_forward.w1",
        "up_proj": "feed_forward.w3",
        "down_proj": "feed_forward.w2",
        "router": "feed_forward.gate",
    }
    for name, array in model.weights.items():
        if name in top:
            tensors[top[name] + ".weight"] = array
            continue
        _, layer, *role = name.split(".")
        if role[0] == "experts":
            theirs = f"feed_forward.experts.{role[1]}.{_W_NAMES[role[2]]}"
        else:
            theirs = layer_names[role[0]]
        tensors[f"layers.{layer}.{theirs}.weight"] = interleaved(array, role[0], model.config)
    _write_shards(folder, tensors, dtype, "consolidated", num_shards)
    return {name: rounded(array, dtype) for name, array in model.weights.items()}


def consolidated_params(config: ModelConfig) -> dict[str, Any]:
    """params.json of a Mistral model (Llama has none of its own here)."""
    c = config
    params: dict[str, Any] = {
        "dim": c.dim,
        "n_layers": c.n_layers,
        "head_dim": c.head_dim,
        "hidden_dim": c.hidden_dim,
        "n_heads": c.n_heads,
        "n_kv_heads": c.n_kv_heads,
        "norm_eps": c.norm_eps,
        "vocab_size": c.vocab_size,
        "rope_theta": c.rope_theta,
        "max_seq_len": c.max_seq_len,
    }
    if any(c.sliding_window):
        one = len(set(c.sliding_window)) == 1
        params["sliding_window"] = c.sliding_window[0] if one else list(c.sliding_window)
    if c.tied_embeddings:
        params["tied_embeddings"] = True
    if c.moe is not None:
        params["moe"] = {
            "num_experts": c.moe.num_experts,
            "num_experts_per_tok": c.moe.num_experts_per_tok,
        }
    if isinstance(c.rope_scaling, YarnScaling):
        params["yarn"] = {
            "factor": c.rope_scaling.factor,
            "original_max_position_embeddings": c.rope_scaling.original_max_position_embeddings,
            "beta": c.rope_scaling.beta_fast,
            "alpha": c.rope_scaling.beta_slow,
            "apply_scale": False,
        }
    if c.query_temperature is not None:
        params["llama_4_scaling"] = {
            "beta": c.query_temperature.beta,
            "original_max_position_embeddings": (
                c.query_temperature.original_max_position_embeddings
            ),
        }
    return params


def write_safetensors(path: Path, tensors: Weights, dtype: FloatDtype) -> None:
    """One safetensors file with every tensor stored as `dtype`."""
    names = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
    stored: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(
            to_bf16(array)
            if dtype == "bf16"
            else array.astype(np.float16 if dtype == "f16" else np.float32)
        )
        for name, array in tensors.items()
    }
    specs = {
        name: TensorSpec(
            dtype=names[dtype],
            shape=list(array.shape),
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in stored.items()
    }
    serialize_file(specs, path, metadata={"format": "pt"})


def _write_shards(
    folder: Path, tensors: Weights, dtype: FloatDtype, stem: str, num_shards: int
) -> None:
    if num_shards == 1:
        write_safetensors(folder / f"{stem}.safetensors", tensors, dtype)
        return
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file = f"{stem}-{shard + 1:05}-of-{num_shards:05}.safetensors"
        chosen = names[shard::num_shards]
        write_safetensors(folder / file, {name: tensors[name] for name in chosen}, dtype)
        weight_map |= dict.fromkeys(chosen, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
