"""config.json, params.json and GGUF metadata all give the same `ModelConfig`, or a clear no."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cierzo.config import FrequencyFactors, Llama3Scaling, ModelConfig, YarnScaling
from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.models.checkpoint import open_checkpoint
from cierzo.models.config_checks import check_config, config_from_json, config_to_json
from cierzo.models.config_consolidated import consolidated_config
from cierzo.models.config_gguf import gguf_config, scaling_from_factors
from cierzo.models.config_huggingface import huggingface_config
from tests.tiny_checkpoints import (
    TINY_CONFIGS,
    consolidated_params,
    tiny_model,
    write_consolidated,
    write_gguf,
    write_huggingface,
)
from tests.tiny_checkpoints import huggingface_config as huggingface_values
from tests.tiny_models import TINY


def huggingface(**changes: Any) -> ModelConfig:
    values = {**huggingface_values(TINY, "4"), **changes}
    kept = {key: value for key, value in values.items() if value != "absent"}
    return huggingface_config(kept, "config.json", has_output=True)


def consolidated(**changes: Any) -> ModelConfig:
    values = {**consolidated_params(TINY), **changes}
    kept = {key: value for key, value in values.items() if value != "absent"}
    return consolidated_config(kept, "params.json", has_output=True)


GGUF = {
    "general.architecture": "llama",
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.key_length": 32,
    "llama.feed_forward_length": 96,
    "llama.vocab_size": 320,
    "llama.context_length": 512,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def gguf(**changes: Any) -> ModelConfig:
    values = {**GGUF, **{f"llama.{key}": value for key, value in changes.items()}}
    return gguf_config(values, "m.gguf", has_output=True)


@pytest.mark.parametrize("style", ["4", "5"])
@pytest.mark.parametrize("name", TINY_CONFIGS)
def test_huggingface(tmp_path: Path, name: str, style: str) -> None:
    model = tiny_model(name)
    write_huggingface(tmp_path, model, style="5" if style == "5" else "4")
    assert open_checkpoint(tmp_path).config == model.config


@pytest.mark.parametrize("name", [n for n in TINY_CONFIGS if not n.startswith("llama")])
def test_consolidated(tmp_path: Path, name: str) -> None:
    model = tiny_model(name)
    write_consolidated(tmp_path, model)
    config, expected = open_checkpoint(tmp_path).config, model.config
    if name == "ministral3":  # apply_scale false says it in its own way
        assert isinstance(config.rope_scaling, YarnScaling)
        assert config.rope_scaling.attention_factor == 1.0
        config = replace(config, rope_scaling=expected.rope_scaling)
    assert config == expected


@pytest.mark.parametrize("name", [n for n in TINY_CONFIGS if n != "llama3"])
def test_gguf(tmp_path: Path, name: str) -> None:
    model = tiny_model(name)
    write_gguf(tmp_path / "m.gguf", model)
    config, expected = open_checkpoint(tmp_path / "m.gguf").config, model.config
    if expected.architecture == "mistral":  # such files do not say Mistral or Llama
        expected = replace(expected, architecture="llama")
    assert config == expected


@pytest.mark.parametrize("name", TINY_CONFIGS)
def test_json_round_trip(name: str) -> None:
    config = TINY_CONFIGS[name]
    values = json.loads(json.dumps(config_to_json(config)))
    assert config_from_json(values, "cierzo.json") == config


def test_rope_factors_become_the_formula_or_stay_a_table() -> None:
    exponents = np.arange(0, 64, 2) / 64
    turns = 8192 * 5e5**-exponents / (2 * np.pi)
    keep = np.clip((turns - 1) / 3, 0, 1)
    factors = (1 / (keep + (1 - keep) / 32)).astype(np.float32)
    assert scaling_from_factors(factors, 5e5, 64) == Llama3Scaling(32.0, 1.0, 4.0, 8192)
    factors[3] = 1.5
    table = scaling_from_factors(factors, 5e5, 64)
    assert isinstance(table, FrequencyFactors) and table.factors[3] == 1.5
    assert scaling_from_factors(np.ones(32, np.float32), 5e5, 64) is None


def test_huggingface_class_defaults() -> None:
    assert huggingface(head_dim=None).head_dim == 16
    assert huggingface(sliding_window="absent").sliding_window == (4096, 4096)
    assert huggingface(sliding_window=None).sliding_window == (None, None)
    assert huggingface(tie_word_embeddings="absent").tied_embeddings is False
    llama = huggingface(
        architectures=["LlamaForCausalLM"], model_type="llama", num_key_value_heads="absent"
    )
    assert llama.n_kv_heads == 4


def test_consolidated_defaults() -> None:
    assert consolidated(rope_theta="absent").rope_theta == 1e6
    assert consolidated(rope_theta="absent", sliding_window=8).rope_theta == 1e4
    assert consolidated(max_seq_len="absent").max_seq_len == 128_000
    repeated = consolidated(n_layers=8, sliding_window=[None, 9, 9, 9])
    assert repeated.sliding_window == (None, 9, 9, 9) * 2


def test_yarn_of_gguf() -> None:
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    yarn |= {"rope.scaling.original_context_length": 128}
    assert gguf(**yarn).rope_scaling == YarnScaling(4.0, 128)
    scaled = gguf(**yarn, **{"rope.scaling.attn_factor": 0.5}).rope_scaling
    assert isinstance(scaled, YarnScaling) and scaled.attention_factor is not None
    assert scaled.attention_factor == pytest.approx(0.5 * (1 + 0.1 * np.log(4)))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        ({"architectures": ["MistralForSequenceClassification"]}, "SequenceClassification"),
        ({"architectures": None, "model_type": "qwen3"}, "qwen3"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "longrope"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [1, 1]}}, "block"),
        ({"intermediate_size": 100}, "multiple of 16"),
        ({"head_dim": 15}, "odd head_dim"),
    ],
)
def test_unsupported_huggingface(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UnsupportedModelError, match=what) as caught:
        huggingface(**changes)
    assert "LlamaForCausalLM" in str(caught.value), "the refusal lists what runs"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"kv_lora_rank": 512}, "latent attention"),
        ({"model_type": "mamba"}, "mamba"),
        ({"moe": {"num_experts": 8, "num_shared_experts": 1}}, "num_shared_experts"),
        ({"quantization": {"qformat_weight": "nvfp4"}}, "nvfp4"),
    ],
)
def test_unsupported_consolidated(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(UnsupportedModelError, match=what):
        consolidated(**changes)


def test_unsupported_gguf() -> None:
    with pytest.raises(UnsupportedModelError, match="deepseek2"):
        gguf_config({**GGUF, "general.architecture": "deepseek2"}, "m", has_output=True)
    with pytest.raises(UnsupportedModelError, match="expert_shared_count"):
        gguf(expert_shared_count=1)
    with pytest.raises(UnsupportedModelError, match="value_length"):
        gguf(**{"attention.value_length": 16})
    with pytest.raises(UnsupportedModelError, match="differs between layers"):
        gguf(**{"attention.head_count_kv": np.array([2, 1], np.int32)})


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 0},
        {"hidden_size": -64},
        {"hidden_size": 64.5},
        {"hidden_size": "64"},
        {"hidden_size": True},
        {"hidden_size": "absent"},
        {"hidden_size": 2**63},
        {"num_attention_heads": 3},
        {"num_hidden_layers": 10**9},
        {"vocab_size": 10**12},
        {"rms_norm_eps": float("nan")},
        {"rms_norm_eps": 0.0},
        {"rope_theta": float("inf")},
        {"rope_scaling": {"rope_type": "yarn", "factor": 0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": float("nan")}},
        {"rope_scaling": []},
        {"sliding_window": 0},
        {"layer_types": ["full_attention"]},
        {"layer_types": ["full_attention", "linear_attention"]},
        {"architectures": ["Mistral3ForConditionalGeneration"]},
    ],
    ids=str,
)
def test_impossible_numbers(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json"):
        huggingface(**changes)


def test_experts_must_be_enough() -> None:
    config = TINY_CONFIGS["mixtral"]
    assert config.moe is not None
    with pytest.raises(ModelFileError, match="num_experts_per_tok"):
        check_config(replace(config, moe=replace(config.moe, num_experts_per_tok=5)), "x")
