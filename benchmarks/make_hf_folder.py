"""A shape of make_checkpoint.py as a Hugging Face folder of random bf16 weights: for engines that
read nothing else. No tokenizer: they are given token ids.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.make_checkpoint import SHAPES, BlockType, Shape, random_blocks
from cierzo.cli.console import byte_progress

_ONE = np.uint16(0x3F80)  # bf16


def ensure_hf_folder(parent: Path, name: str) -> Path:
    """The folder of a known shape, written the first time."""
    folder = parent / f"{name}.hf"
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_weights(folder / "model.safetensors", SHAPES[name])
        # Last: a folder with a configuration is whole.
        (folder / "config.json").write_text(json.dumps(_config(SHAPES[name]), indent=1))
    return folder


def _config(shape: Shape) -> dict[str, Any]:
    sparse = shape.num_experts > 0
    config: dict[str, Any] = {
        "architectures": ["MixtralForCausalLM" if sparse else "LlamaForCausalLM"],
        "model_type": "mixtral" if sparse else "llama",
        "hidden_size": shape.dim,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "intermediate_size": shape.hidden_dim,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "tie_word_embeddings": shape.tied_embeddings,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if sparse:
        config["num_local_experts"] = shape.num_experts
        config["num_experts_per_tok"] = shape.num_experts_per_tok
        config["sliding_window"] = None
    return config


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    s, head_dim = shape, shape.dim // shape.n_heads
    yield "model.embed_tokens.weight", (s.vocab_size, s.dim)
    for n in range(s.n_layers):
        layer = f"model.layers.{n}."
        yield layer + "input_layernorm.weight", (s.dim,)
        yield layer + "post_attention_layernorm.weight", (s.dim,)
        for name, heads in (("q", s.n_heads), ("k", s.n_kv_heads), ("v", s.n_kv_heads)):
            yield f"{layer}self_attn.{name}_proj.weight", (heads * head_dim, s.dim)
        yield layer + "self_attn.o_proj.weight", (s.dim, s.n_heads * head_dim)
        up, down = (s.hidden_dim, s.dim), (s.dim, s.hidden_dim)
        if not s.num_experts:
            for name, axes in (("gate", up), ("up", up), ("down", down)):
                yield f"{layer}mlp.{name}_proj.weight", axes
            continue
        yield layer + "block_sparse_moe.gate.weight", (s.num_experts, s.dim)
        for expert in range(s.num_experts):
            for name, axes in (("w1", up), ("w3", up), ("w2", down)):
                yield f"{layer}block_sparse_moe.experts.{expert}.{name}.weight", axes
    yield "model.norm.weight", (s.dim,)
    if not s.tied_embeddings:
        yield "lm_head.weight", (s.vocab_size, s.dim)


def _write_weights(path: Path, shape: Shape) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, axes in _tensors(shape):
        begin, end = end, end + 2 * math.prod(axes)
        header[name] = {"dtype": "BF16", "shape": list(axes), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    rng = np.random.Generator(np.random.SFC64(0))
    done = 0
    with path.open("wb") as file, byte_progress("writing") as bar:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, axes in _tensors(shape):
            count = math.prod(axes)
            if len(axes) == 1:
                data = np.full(count, _ONE).tobytes()
            else:
                data = random_blocks(BlockType.BF16, count, axes[-1] ** -0.5, rng).tobytes()
            file.write(data)
            done += len(data)
            bar(path.name, done, end)
