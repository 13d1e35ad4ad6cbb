"""Frozen configuration: what a model is, and how the engine runs it.

Built once, read everywhere, changed nowhere. Knows nothing of files, flags or
the environment: `models/` fills `ModelConfig` from a checkpoint, `settings.py`
fills `EngineConfig` from flags and variables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

BLOCK_SIZE = 16
"""Tokens per KV-cache block. The kernels' key layout is built on it, so it is no setting."""

TOKEN_BUDGET = 512
"""Most tokens that the engine computes in one step, unless it is told otherwise."""

GROUP_SIZE = 32
"""Weights along the input axis that share one scale."""

WeightDtype = Literal["int4", "int8", "bf16"]
KvCacheDtype = Literal["bf16", "int8"]
"""How keys and values are kept; int8 has a scale per token, KV head, and keys or values."""

Pooling = Literal["last", "mean"]
"""Which hidden state stands for a text: its last token's, or the mean over all its tokens."""

Architecture = Literal["mistral", "mixtral", "ministral3", "llama"]


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): low frequencies interpolated by `factor`, high ones kept."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None  # None: derived from factor and the two mscales


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's frequency scaling: long wavelengths divided by `factor`, smooth in between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Every frequency divided by `factor` (position interpolation)."""

    factor: float


@dataclass(frozen=True, slots=True)
class FrequencyFactors:
    """Frequency i divided by `factors[i]` (head_dim / 2 of them): a table that no formula gives."""

    factors: tuple[float, ...]


RopeScaling = YarnScaling | Llama3Scaling | LinearScaling | FrequencyFactors


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """A sparse feed-forward layer: `num_experts_per_tok` of `num_experts` work on each token."""

    num_experts: int
    num_experts_per_tok: int


@dataclass(frozen=True, slots=True)
class QueryTemperature:
    """q ← q · (1 + beta · ln(1 + ⌊position / original_max_position_embeddings⌋)) after RoPE."""

    beta: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a decoder-only transformer, in params.json's names.

    `sliding_window` has one entry per layer: tokens attended back including the
    current one, or None for full attention. `pooling` is for embeddings.
    """

    architecture: Architecture
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    max_seq_len: int
    sliding_window: tuple[int | None, ...]
    tied_embeddings: bool = False
    rope_scaling: RopeScaling | None = None
    moe: MoeConfig | None = None
    query_temperature: QueryTemperature | None = None
    pooling: Pooling = field(default="last", repr=False)  # no part of what the logits depend on

    @property
    def queries_per_kv_head(self) -> int:
        return self.n_heads // self.n_kv_heads

    def kv_bytes_per_token(self, kv_cache_dtype: KvCacheDtype = "bf16") -> int:
        """Keys and values of one token over all layers, scales included."""
        row = self.head_dim + 2 if kv_cache_dtype == "int8" else 2 * self.head_dim
        return 2 * self.n_layers * self.n_kv_heads * row

    @property
    def widest_window(self) -> int | None:
        """Tokens back that some layer still attends to; None when a layer attends to all."""
        windows = [window for window in self.sliding_window if window is not None]
        return max(windows) if len(windows) == self.n_layers else None

    def kv_blocks(self, num_tokens: int, token_budget: int = TOKEN_BUDGET) -> int:
        """The most KV blocks that a sequence of `num_tokens` tokens holds at once, computed in
        steps of `token_budget`: those behind the window of every layer are freed on the way."""
        blocks = num_blocks_for(num_tokens)
        if self.widest_window is None:
            return blocks
        # The window before a chunk, the chunk, and one block for their straddling borders.
        return min(blocks, num_blocks_for(self.widest_window + token_budget) + 1)

    def kv_bytes(self, num_tokens: int, token_budget: int = TOKEN_BUDGET) -> int:
        """The same in bytes, in bf16."""
        return self.kv_blocks(num_tokens, token_budget) * BLOCK_SIZE * self.kv_bytes_per_token()


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How the engine schedules. Tokens, sequences and blocks are counts; memory is bytes."""

    max_model_len: int
    token_budget: int = TOKEN_BUDGET
    max_running: int = 64
    max_waiting: int = 512
    num_blocks: int = 1024
    prefix_caching: bool = True
    speculation: bool = True


def num_blocks_for(num_tokens: int) -> int:
    """Blocks that hold `num_tokens` tokens."""
    return -(-num_tokens // BLOCK_SIZE)
