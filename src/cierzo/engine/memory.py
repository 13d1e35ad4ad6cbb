"""How many KV blocks the memory ceiling leaves room for, and how long a sequence may then be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cierzo.config import BLOCK_SIZE, TOKEN_BUDGET, KvCacheDtype, ModelConfig
from cierzo.errors import ModelTooLargeError, SettingError

NUM_FULL_SEQUENCES = 8
"""Sequences of the model's own length that the KV cache is made for, where memory allows: most are
far shorter, so this is dozens in practice."""

LEAST_USEFUL_BLOCKS = 16
"""Without a `max_model_len` asked for, a machine that cannot hold these 256 tokens is too small."""

GIB = 2**30

PROCESS_NBYTES = 384 * 2**20
"""Python, its libraries, a tokenizer with its grammars, the process that renders templates."""


@dataclass(frozen=True, slots=True)
class KvPlan:
    """`max_model_len` in tokens, `num_blocks` of 16 tokens each."""

    max_model_len: int
    num_blocks: int


def buffers_nbytes(config: ModelConfig, token_budget: int) -> int:
    """The most that one step's activations and logits take, the kernels' copies included."""
    q_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    num_experts = 1 if config.moe is None else config.moe.num_experts_per_tok
    activations = 3 * config.dim + 3 * q_dim + 2 * kv_dim + 2 * num_experts * config.hidden_dim
    return 4 * token_budget * (2 * activations + config.vocab_size)


def split_memory(weights: Sequence[tuple[str, int]], ceiling_nbytes: int) -> list[int]:
    """The ceiling's parts for models of these names and sizes: to each its weights, and an equal
    part of what all leave."""
    rest = ceiling_nbytes - sum(nbytes for _, nbytes in weights)
    if rest < 0:
        sums = " + ".join(f"{name} {_gib(nbytes)}" for name, nbytes in weights)
        raise ModelTooLargeError(
            f"the weights take {sums} = {_gib(ceiling_nbytes - rest)}, over the "
            f"{_gib(ceiling_nbytes)} of --memory; serve fewer models, or smaller dtypes"
        )
    return [nbytes + rest // len(weights) for _, nbytes in weights]


def plan_kv_cache(
    config: ModelConfig,
    *,
    weights_nbytes: int,
    ceiling_nbytes: int,
    max_model_len: int | None,
    max_running: int,
    token_budget: int = TOKEN_BUDGET,
    kv_cache_dtype: KvCacheDtype = "bf16",
) -> KvPlan:
    """Blocks for `max_running` sequences of a `max_model_len` that was asked for, or for eight of
    the model's own, in what weights, buffers and the process leave of the ceiling; at least for
    one. What lies behind every layer's window takes none.

    With `max_model_len` None it is the model's own, or what memory holds if that is less.
    Raises ModelTooLargeError, with the sums, and SettingError for a `max_model_len` over the
    model's own.
    """
    length = max_model_len or config.max_seq_len
    if length > config.max_seq_len:
        raise SettingError(
            f"max_model_len {length} is over the {config.max_seq_len} tokens that the model was "
            "made for; lower it or leave it unset"
        )
    buffers = buffers_nbytes(config, token_budget)
    left = ceiling_nbytes - weights_nbytes - buffers - PROCESS_NBYTES
    sums = (
        f"{_gib(ceiling_nbytes)} of --memory - {_gib(weights_nbytes)} weights - {_gib(buffers)} "
        f"buffers - {_gib(PROCESS_NBYTES)} process = {_gib(left)} for the KV cache"
    )
    if left <= 0:
        raise ModelTooLargeError(
            f"{sums}; raise --memory, choose a smaller dtype (int8, int4) or a smaller model"
        )
    block_bytes = config.kv_bytes_per_token(kv_cache_dtype) * BLOCK_SIZE
    most_blocks = left // block_bytes
    blocks_each = config.kv_blocks(length, token_budget)
    if blocks_each > most_blocks and max_model_len is None and most_blocks >= LEAST_USEFUL_BLOCKS:
        length, blocks_each = most_blocks * BLOCK_SIZE, most_blocks
    if blocks_each > most_blocks:
        smaller = ", or keep keys and values in int8 (--kv-cache-dtype)"
        raise ModelTooLargeError(
            f"the KV cache of one sequence of {length} tokens takes {blocks_each} blocks × "
            f"{block_bytes} bytes = {_gib(blocks_each * block_bytes)}, but {sums}; lower "
            f"max_model_len to {most_blocks * BLOCK_SIZE} or raise --memory"
            f"{smaller if kv_cache_dtype == 'bf16' else ''}"
        )
    num_sequences = NUM_FULL_SEQUENCES if max_model_len is None else max_running
    return KvPlan(length, min(most_blocks, num_sequences * blocks_each))


def _gib(nbytes: int) -> str:
    return f"{nbytes / GIB:.2f} GiB"
