"""Which tensors a packed model must hold, and their shapes: what a config promises.

A manifest that says otherwise is refused before the kernels see it. `weight_plan.py` is the
other side: where these tensors come from.
"""

from __future__ import annotations

from dataclasses import dataclass

from cierzo.config import ModelConfig


@dataclass(frozen=True, slots=True)
class PackedShape:
    """[n_out, n_in] for each of `n_experts`; `is_float` marks norms and routers."""

    n_out: int
    n_in: int
    n_experts: int = 1
    is_float: bool = False


def packed_shapes(config: ModelConfig) -> dict[str, PackedShape]:
    """Name → shape of every tensor of the packed model."""
    c = config
    q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    norm = PackedShape(1, c.dim, is_float=True)
    vocabulary = PackedShape(c.vocab_size, c.dim)
    shapes = {"embedding": vocabulary, "norm": norm}
    if not c.tied_embeddings:
        shapes["output"] = vocabulary
    num_experts = 1 if c.moe is None else c.moe.num_experts
    layer = {
        "attention_norm": norm,
        "qkv_proj": PackedShape(q_dim + 2 * kv_dim, c.dim),
        "o_proj": PackedShape(c.dim, q_dim),
        "feed_forward_norm": norm,
    }
    if c.moe is not None:
        layer["router"] = PackedShape(num_experts, c.dim, is_float=True)
    prefix = "" if c.moe is None else "experts."
    layer[prefix + "gate_up_proj"] = PackedShape(2 * c.hidden_dim, c.dim, num_experts)
    layer[prefix + "down_proj"] = PackedShape(c.dim, c.hidden_dim, num_experts)
    for n in range(c.n_layers):
        shapes |= {f"layers.{n}.{name}": shape for name, shape in layer.items()}
    return shapes
