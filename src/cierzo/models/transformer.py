"""The forward pass of every architecture we run: Mistral, Mixtral, Ministral 3, Llama.

T tokens of a step, D dim, H hidden_dim, V vocabulary. Activations are float32 `Tensor`s
that live as long as the model and are written in place, so a step allocates nothing
that grows with the model. The pass is written down once, as a `Program` of kernel calls, and
every step runs it without Python in between. Knows nothing of files, requests or text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cierzo import kernels
from cierzo.config import KvCacheDtype, ModelConfig
from cierzo.kernels import ForwardInput, KVCache, PackedWeight, Program, RMSNorm, Tensor
from cierzo.models.rope import RotaryEmbedding

Int32 = NDArray[np.int32]


class Weights(Protocol):
    """Where a model's tensors come from, by name (`PackedFolder` in production)."""

    @property
    def config(self) -> ModelConfig: ...

    def packed(self, name: str) -> PackedWeight: ...

    def tensor(self, name: str) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class StepArrays:
    """What one step computes: T tokens of S sequences, each sequence's tokens in a row.

    `slot_mapping` says where a token's key and value go (block_id · 16 + offset).
    `query_starts` [S + 1] bounds each sequence's rows, `context_lens` [S] counts the
    tokens it attends to, this step's included, `block_tables` [S, max_blocks] maps
    its blocks (-1: unused, or freed behind the sliding window). Rows before `num_prompt_tokens`
    are prompt tokens, the others completion tokens: that decides their numerics
    (docs/architecture.md, "One numeric contract"), so a sequence's rows are all of one class.
    """

    token_ids: Int32
    positions: Int32
    slot_mapping: Int32
    query_starts: Int32
    context_lens: Int32
    block_tables: Int32
    num_prompt_tokens: int


class Scratch:
    """The activations of a step, shared by all layers."""

    def __init__(self, config: ModelConfig) -> None:
        self.x = Tensor(0, config.dim)
        self.h = Tensor(0, config.dim)
        self.due = Tensor(0, config.dim)
        self.logits = Tensor(0, config.vocab_size)


class Attention:
    """Grouped-query attention over the paged KV cache, RoPE on queries and keys."""

    def __init__(self, weights: Weights, layer: int) -> None:
        config = weights.config
        self._layer = layer
        self._n_heads = config.n_heads
        self._sliding_window = config.sliding_window[layer] or 0
        self._norm = RMSNorm(weights.tensor(f"layers.{layer}.attention_norm"), config.norm_eps)
        self._qkv_proj = weights.packed(f"layers.{layer}.qkv_proj")
        self._o_proj = weights.packed(f"layers.{layer}.o_proj")

    def write(self, program: Program, s: Scratch) -> None:
        """x [T, D] += attention(norm(x))"""
        program.attention_layer(
            s.x,
            self._qkv_proj,
            self._o_proj,
            self._norm,
            self._layer,
            self._n_heads,
            self._sliding_window,
        )


class FeedForward:
    """SwiGLU: down(silu(gate(h)) ⊙ up(h))."""

    def __init__(self, weights: Weights, layer: int) -> None:
        norm = weights.tensor(f"layers.{layer}.feed_forward_norm")
        self._norm = RMSNorm(norm, weights.config.norm_eps)
        self._gate_up_proj = weights.packed(f"layers.{layer}.gate_up_proj")
        self._down_proj = weights.packed(f"layers.{layer}.down_proj")

    def write(self, program: Program, s: Scratch) -> None:
        """x [T, D] += feed_forward(norm(x))"""
        program.feed_forward(s.x, self._gate_up_proj, self._down_proj, norm=self._norm)


class MoeLayer:
    """Sparse feed-forward: the router picks a few experts per token; only they work."""

    def __init__(self, weights: Weights, layer: int, num_experts_per_tok: int) -> None:
        self._num_experts_per_tok = num_experts_per_tok
        self._eps = weights.config.norm_eps
        self._norm = weights.tensor(f"layers.{layer}.feed_forward_norm")
        self._router = weights.tensor(f"layers.{layer}.router")
        self._gate_up_proj = weights.packed(f"layers.{layer}.experts.gate_up_proj")
        self._down_proj = weights.packed(f"layers.{layer}.experts.down_proj")
        self.expert_counts = Tensor(1, self._router.rows)  # rows that chose each, summed up

    def write(self, program: Program, s: Scratch) -> None:
        """x [T, D] += Σ over chosen experts of weight · feed_forward_e(norm(x))"""
        program.rms_norm(s.h, s.x, self._norm, self._eps)
        program.moe(
            s.x,
            s.h,
            self._router,
            self._gate_up_proj,
            self._down_proj,
            self._num_experts_per_tok,
            self.expert_counts,
        )


class TransformerBlock:
    """x += attention(norm(x)), then x += feed_forward(norm(x))."""

    def __init__(self, weights: Weights, layer: int) -> None:
        moe = weights.config.moe
        self._attention = Attention(weights, layer)
        self.feed_forward = (
            FeedForward(weights, layer)
            if moe is None
            else MoeLayer(weights, layer, moe.num_experts_per_tok)
        )

    def write(self, program: Program, s: Scratch) -> None:
        self._attention.write(program, s)
        self.feed_forward.write(program, s)


class ExpertLoad:
    """How many tokens each expert of each sparse layer has worked on.

    `tokens` is int64 [layers, experts], of no layers for a dense model. The kernels count in
    float32, which is exact for one step and would not be for a day.
    """

    def __init__(self, layers: list[MoeLayer]) -> None:
        self._counts = [layer.expert_counts.numpy()[0] for layer in layers]
        num_experts = len(self._counts[0]) if layers else 0
        self.tokens = np.zeros((len(layers), num_experts), np.int64)

    def add_step(self) -> None:
        for total, counts in zip(self.tokens, self._counts, strict=True):
            total += counts.astype(np.int64)
            counts.fill(0)


class Transformer:
    """A decoder-only transformer over packed weights. Not thread-safe: one step at a time.

    `tells_prompt_apart`: a prompt token's KV differs from the same token's that was sampled.
    Unset: where there is a matrix unit, for which many rows are worth an arithmetic of their own.
    `kv_cache_dtype` is what its KV caches hold.
    """

    def __init__(
        self,
        weights: Weights,
        tells_prompt_apart: bool | None = None,
        kv_cache_dtype: KvCacheDtype = "bf16",
    ) -> None:
        self._kv_cache_dtype = kv_cache_dtype
        self.config = config = weights.config
        self.tells_prompt_apart = (
            kernels.isa() == "amx" if tells_prompt_apart is None else tells_prompt_apart
        )
        self._rope = RotaryEmbedding(config)
        self._embedding = weights.packed("embedding")
        self._blocks = [TransformerBlock(weights, layer) for layer in range(config.n_layers)]
        self._norm = weights.tensor("norm")
        self._output = self._embedding if config.tied_embeddings else weights.packed("output")
        self._scratch = Scratch(config)
        self._program = self._write_program(self._scratch)
        parts = [block.feed_forward for block in self._blocks]
        self._expert_load = ExpertLoad([part for part in parts if isinstance(part, MoeLayer)])

    @property
    def expert_tokens(self) -> NDArray[np.int64]:
        """Tokens that each expert worked on so far, [layers, experts]; no layers where dense."""
        return self._expert_load.tokens

    def new_kv_cache(self, num_blocks: int) -> KVCache:
        c = self.config
        return KVCache(c.n_layers, num_blocks, c.n_kv_heads, c.head_dim, self._kv_cache_dtype)

    def copy_blocks(self, kv_cache: KVCache, copies: list[tuple[int, int]]) -> None:
        """Copy keys and values of whole blocks, (from, to), one after another."""
        for source, target in copies:
            kv_cache.copy_block(source, target)

    def forward(self, step: StepArrays, kv_cache: KVCache, logits_rows: Int32) -> Tensor:
        """Logits [len(logits_rows), V] of the given rows; valid until the next step."""
        return self.head(self.hidden(step, kv_cache, logits_rows))

    def hidden(self, step: StepArrays, kv_cache: KVCache, rows: Int32) -> Tensor:
        """Hidden states after the final norm [len(rows), D]; valid until the next step."""
        self._program.run(self._forward_input(step), kv_cache, rows)
        self._expert_load.add_step()
        return self._scratch.due

    def _write_program(self, s: Scratch) -> Program:
        program = Program()
        program.embed(s.x, self._embedding)
        for block in self._blocks:
            block.write(program, s)
        program.gather_rows(s.due, s.x)
        program.rms_norm(s.due, s.due, self._norm, self.config.norm_eps)
        return program

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [R, V] of hidden states [R, D]; valid until the next step."""
        kernels.matmul(self._scratch.logits, hidden, self._output)
        return self._scratch.logits

    def _forward_input(self, step: StepArrays) -> ForwardInput:
        cos, sin = self._rope.angles(step.positions)
        return ForwardInput(
            step.token_ids,
            step.positions,
            step.slot_mapping,
            step.query_starts,
            step.context_lens,
            step.block_tables,
            cos,
            sin,
            self._rope.query_scale(step.positions),
            step.num_prompt_tokens if self.tells_prompt_apart else 0,
        )
