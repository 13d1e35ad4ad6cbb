"""The one table of tensor names: Hugging Face, consolidated and GGUF → ours.

Ours are `embedding`, `layers.N.q_proj`, `layers.N.experts.E.gate_proj` and so on; a
stack of all experts in one tensor is `layers.N.experts.gate_proj` (or `.gate_up_proj`).
Knows names only: shapes and stacking are `weight_plan.py`'s.
"""

from __future__ import annotations

import re
from typing import Literal

from cierzo.errors import UnsupportedModelError

CheckpointFormat = Literal["huggingface", "consolidated", "gguf"]

_HUGGINGFACE = {
    "model.embed_tokens.weight": "embedding",
    "model.norm.weight": "norm",
    "lm_head.weight": "output",
    "model.layers.{}.input_layernorm.weight": "layers.{}.attention_norm",
    "model.layers.{}.post_attention_layernorm.weight": "layers.{}.feed_forward_norm",
    "model.layers.{}.self_attn.q_proj.weight": "layers.{}.q_proj",
    "model.layers.{}.self_attn.k_proj.weight": "layers.{}.k_proj",
    "model.layers.{}.self_attn.v_proj.weight": "layers.{}.v_proj",
    "model.layers.{}.self_attn.o_proj.weight": "layers.{}.o_proj",
    "model.layers.{}.mlp.gate_proj.weight": "layers.{}.gate_proj",
    "model.layers.{}.mlp.up_proj.weight": "layers.{}.up_proj",
    "model.layers.{}.mlp.down_proj.weight": "layers.{}.down_proj",
    "model.layers.{}.block_sparse_moe.gate.weight": "layers.{}.router",
    "model.layers.{}.mlp.gate.weight": "layers.{}.router",
    "model.layers.{}.block_sparse_moe.experts.{}.w1.weight": "layers.{}.experts.{}.gate_proj",
    "model.layers.{}.block_sparse_moe.experts.{}.w3.weight": "layers.{}.experts.{}.up_proj",
    "model.layers.{}.block_sparse_moe.experts.{}.w2.weight": "layers.{}.experts.{}.down_proj",
    "model.layers.{}.mlp.experts.gate_up_proj": "layers.{}.experts.gate_up_proj",
    "model.layers.{}.mlp.experts.down_proj": "layers.{}.experts.down_proj",
}
_CONSOLIDATED = {
    "tok_embeddings.weight": "embedding",
    "norm.weight": "norm",
    "output.weight": "output",
    "layers.{}.attention_norm.weight": "layers.{}.attention_norm",
    "layers.{}.ffn_norm.weight": "layers.{}.feed_forward_norm",
    "layers.{}.attention.wq.weight": "layers.{}.q_proj",
    "layers.{}.attention.wk.weight": "layers.{}.k_proj",
    "layers.{}.attention.wv.weight": "layers.{}.v_proj",
    "layers.{}.attention.wo.weight": "layers.{}.o_proj",
    "layers.{}.feed_forward.w1.weight": "layers.{}.gate_proj",
    "layers.{}.feed_forward.w3.weight": "layers.{}.up_proj",
    "layers.{}.feed_forward.w2.weight": "layers.{}.down_proj",
    "layers.{}.feed_forward.gate.weight": "layers.{}.router",
    "layers.{}.feed_forward.experts.{}.w1.weight": "layers.{}.experts.{}.gate_proj",
    "layers.{}.feed_forward.experts.{}.w3.weight": "layers.{}.experts.{}.up_proj",
    "layers.{}.feed_forward.experts.{}.w2.weight": "layers.{}.experts.{}.down_proj",
}
_GGUF = {
    "token_embd.weight": "embedding",
    "output_norm.weight": "norm",
    "output.weight": "output",
    "rope_freqs.weight": "rope_factors",
    "blk.{}.attn_norm.weight": "layers.{}.attention_norm",
    "blk.{}.ffn_norm.weight": "layers.{}.feed_forward_norm",
    "blk.{}.attn_q.weight": "layers.{}.q_proj",
    "blk.{}.attn_k.weight": "layers.{}.k_proj",
    "blk.{}.attn_v.weight": "layers.{}.v_proj",
    "blk.{}.attn_output.weight": "layers.{}.o_proj",
    "blk.{}.ffn_gate.weight": "layers.{}.gate_proj",
    "blk.{}.ffn_up.weight": "layers.{}.up_proj",
    "blk.{}.ffn_down.weight": "layers.{}.down_proj",
    "blk.{}.ffn_gate_inp.weight": "layers.{}.router",
    "blk.{}.ffn_gate.{}.weight": "layers.{}.experts.{}.gate_proj",
    "blk.{}.ffn_up.{}.weight": "layers.{}.experts.{}.up_proj",
    "blk.{}.ffn_down.{}.weight": "layers.{}.experts.{}.down_proj",
    "blk.{}.ffn_gate_exps.weight": "layers.{}.experts.gate_proj",
    "blk.{}.ffn_up_exps.weight": "layers.{}.experts.up_proj",
    "blk.{}.ffn_down_exps.weight": "layers.{}.experts.down_proj",
}
_TABLES: dict[CheckpointFormat, dict[str, str]] = {
    "huggingface": _HUGGINGFACE,
    "consolidated": _CONSOLIDATED,
    "gguf": _GGUF,
}
_SKIPPED_PREFIXES = (
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
    "vision_encoder.",
    "vision_language_adapter.",
    "patch_merger.",
    "pre_mm_projector_norm.",
)
_SKIPPED_SUFFIXES = (".rotary_emb.inv_freq", ".attn_rot_embd.weight")
_WRAPPER_PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.", ""),
)
_NUMBER = re.compile(r"(?<=\.)(?:0|[1-9]\d{0,4})(?=\.)")


def our_name(name: str, checkpoint_format: CheckpointFormat) -> str | None:
    """Our name of a checkpoint's tensor, or None for one to skip (vision, computed tables).

    Raises UnsupportedModelError for a tensor that no model we run has.

    >>> our_name("model.language_model.layers.7.self_attn.k_proj.weight", "huggingface")
    'layers.7.k_proj'
    >>> our_name("blk.0.ffn_down.3.weight", "gguf")
    'layers.0.experts.3.down_proj'
    """
    if name.startswith(_SKIPPED_PREFIXES) or name.endswith(_SKIPPED_SUFFIXES):
        return None
    plain = name
    for wrapped, bare in _WRAPPER_PREFIXES:
        if checkpoint_format == "huggingface" and name.startswith(wrapped):
            plain = bare + name.removeprefix(wrapped)
            break
    ours = _TABLES[checkpoint_format].get(_NUMBER.sub("{}", plain))
    if ours is None:
        raise UnsupportedModelError(
            f"tensor {name!r} belongs to no model that Cierzo runs "
            "(a bias, an adapter, or another architecture)"
        )
    return ours.format(*_NUMBER.findall(plain))
