"""Tiny models written as GGUF v3, in every block type, merged and old split experts.

Uses the `gguf` package, never our own reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType as BlockType
from gguf import quants
from numpy.typing import NDArray

from cierzo.config import LinearScaling, Llama3Scaling, ModelConfig, YarnScaling
from tests.tiny_models import Float32, TinyModel, Weights, interleaved, stacked_experts

K_QUANTS = (BlockType.Q2_K, BlockType.Q3_K, BlockType.Q4_K, BlockType.Q5_K, BlockType.Q6_K)
BLOCK_TYPES = (
    BlockType.F32,
    BlockType.F16,
    BlockType.BF16,
    BlockType.Q4_0,
    BlockType.Q4_1,
    BlockType.Q5_0,
    BlockType.Q5_1,
    BlockType.Q8_0,
    *K_QUANTS,
)


def write_gguf(
    path: Path,
    model: TinyModel,
    *,
    block_type: BlockType = BlockType.Q4_0,
    block_types: Mapping[str, BlockType] | None = None,
    split_experts: bool = False,
    vocabulary: Literal["gpt2", "llama"] = "gpt2",
    seed: int = 0,
) -> Weights:
    """A GGUF v3 file, matrices in `block_type` (or per our role name in `block_types`).

    There is no Python quantiser for K-quants, so those tensors hold random blocks,
    whatever `model` says; the returned weights are always what the file holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    c = model.config
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "mistral3" if c.architecture == "ministral3" else "llama")
    _add_metadata(writer, c)
    _add_vocabulary(writer, c.vocab_size, vocabulary)
    if isinstance(c.rope_scaling, Llama3Scaling):
        writer.add_tensor("rope_freqs.weight", llama3_factors(c))
    truth: Weights = {}

    def add(theirs: str, array: Float32, role: str) -> Float32:
        if array.ndim == 1 or role == "router":
            writer.add_tensor(theirs, array)
            return array
        kind = (block_types or {}).get(role, block_type)
        raw = stored_blocks(array, kind, rng)
        writer.add_tensor(theirs, raw, raw_dtype=kind)
        return quants.dequantize(raw, kind).reshape(array.shape)

    for name, array in model.weights.items():
        parts = name.split(".")
        role = parts[-1]
        if "experts" in parts and not split_experts:
            continue
        stored = add(_gguf_name(parts), interleaved(array, role, c), role)
        truth[name] = _half_split(stored, role, c)
    if c.moe is not None and not split_experts:
        for n in range(c.n_layers):
            for role, stack in zip(
                ("gate_proj", "up_proj", "down_proj"), stacked_experts(model, n), strict=True
            ):
                stored = add(f"blk.{n}.{_GGUF_LAYER[role]}_exps.weight", stack, role)
                truth |= {f"layers.{n}.experts.{e}.{role}": w for e, w in enumerate(stored)}
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return truth


_SUPER_SCALE = {
    BlockType.Q2_K: 6e-3,
    BlockType.Q3_K: 1.9e-3,
    BlockType.Q4_K: 2.7e-4,
    BlockType.Q5_K: 1.25e-4,
    BlockType.Q6_K: 6e-5,
}
"""Mean block scale that gives random blocks weights of about 1/16, right for rows of 256."""


def stored_blocks(array: Float32, block_type: BlockType, rng: np.random.Generator) -> NDArray[Any]:
    """`array` as GGUF stores it; for K-quants random but well-scaled blocks of its shape."""
    if block_type not in K_QUANTS:
        return np.asarray(quants.quantize(array, block_type))
    block_size, type_size = gguf.GGML_QUANT_SIZES[block_type]
    shape = (*array.shape[:-1], array.shape[-1] // block_size, type_size)
    raw = rng.integers(0, 256, shape, dtype=np.uint8)
    has_minimum = block_type in (BlockType.Q2_K, BlockType.Q4_K, BlockType.Q5_K)
    num_f16 = 2 if has_minimum else 1
    mean = _SUPER_SCALE[block_type]
    scales = rng.uniform(0.7 * mean, 1.3 * mean, (*shape[:-1], num_f16)).astype(np.float16)
    is_first = block_type in (BlockType.Q4_K, BlockType.Q5_K)
    start = 0 if is_first else type_size - 2 * num_f16
    raw[..., start : start + 2 * num_f16] = scales.view(np.uint8)
    return raw.reshape(*array.shape[:-1], -1)


_GGUF_LAYER = {
    "attention_norm": "attn_norm",
    "feed_forward_norm": "ffn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "router": "ffn_gate_inp",
}
_GGUF_TOP = {"embedding": "token_embd", "norm": "output_norm", "output": "output"}


def _gguf_name(parts: list[str]) -> str:
    if parts[0] in _GGUF_TOP:
        return _GGUF_TOP[parts[0]] + ".weight"
    if parts[2] == "experts":
        return f"blk.{parts[1]}.{_GGUF_LAYER[parts[4]]}.{parts[3]}.weight"
    return f"blk.{parts[1]}.{_GGUF_LAYER[parts[2]]}.weight"


def _half_split(array: Float32, role: str, config: ModelConfig) -> Float32:
    if role not in ("q_proj", "k_proj"):
        return array
    n_heads = config.n_heads if role == "q_proj" else config.n_kv_heads
    heads = array.reshape(n_heads, config.head_dim // 2, 2, array.shape[1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(array.shape)


def llama3_factors(config: ModelConfig) -> Float32:
    """rope_freqs.weight [head_dim / 2]: what each frequency is divided by."""
    scaling = config.rope_scaling
    assert isinstance(scaling, Llama3Scaling)
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    turns = scaling.original_max_position_embeddings * config.rope_theta**-exponents / (2 * np.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep = np.clip((turns - scaling.low_freq_factor) / span, 0, 1)
    factors: Float32 = (1 / (keep + (1 - keep) / scaling.factor)).astype(np.float32)
    return factors


def _add_metadata(writer: gguf.GGUFWriter, c: ModelConfig) -> None:
    writer.add_name("tiny")
    writer.add_license("apache-2.0")
    writer.add_block_count(c.n_layers)
    writer.add_context_length(c.max_seq_len)
    writer.add_embedding_length(c.dim)
    writer.add_feed_forward_length(c.hidden_dim)
    writer.add_head_count(c.n_heads)
    writer.add_head_count_kv(c.n_kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_vocab_size(c.vocab_size)
    if any(c.sliding_window):
        writer.add_sliding_window(max(window or 0 for window in c.sliding_window))
        if None in c.sliding_window:
            writer.add_sliding_window_pattern([bool(window) for window in c.sliding_window])
    if c.moe is not None:
        writer.add_expert_count(c.moe.num_experts)
        writer.add_expert_used_count(c.moe.num_experts_per_tok)
    if isinstance(c.rope_scaling, LinearScaling):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(c.rope_scaling.factor)
    if isinstance(c.rope_scaling, YarnScaling):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(c.rope_scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(c.rope_scaling.original_max_position_embeddings)
        writer.add_rope_scaling_yarn_beta_fast(c.rope_scaling.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(c.rope_scaling.beta_slow)
        writer.add_rope_scaling_yarn_log_mul(c.rope_scaling.mscale_all_dim or 0.0)
    if c.query_temperature is not None:
        writer.add_attn_temperature_scale(c.query_temperature.beta)
    if c.pooling == "mean":
        writer.add_pooling_type(gguf.PoolingType.MEAN)


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _add_vocabulary(
    writer: gguf.GGUFWriter, vocab_size: int, kind: Literal["gpt2", "llama"]
) -> None:
    """Three control tokens, 256 bytes, then pieces nobody merges: every text has ids."""
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    if kind == "gpt2":
        pieces = [*control, *_BYTE_CHARACTERS]
    else:
        pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [gguf.TokenType.CONTROL] * 3
    types += [gguf.TokenType.NORMAL if kind == "gpt2" else gguf.TokenType.BYTE] * 256
    extra = [f"piece{i}" for i in range(vocab_size - len(pieces))]
    pieces += extra
    types += [gguf.TokenType.NORMAL] * len(extra)
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre("smollm" if kind == "gpt2" else "default")
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    if kind == "gpt2":
        writer.add_token_merges(["h e", "l l"])
    else:
        writer.add_token_scores([0.0] * 3 + [-1000.0] * (vocab_size - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(kind == "llama")
    writer.add_add_space_prefix(kind == "llama")
    writer.add_chat_template(CHAT_TEMPLATE)


def _byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


_BYTE_CHARACTERS = _byte_characters()
