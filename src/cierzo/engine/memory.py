"""How many KV blocks this machine has room for, and how long a sequence may then be."""

from __future__ import annotations

from dataclasses import dataclass

from cierzo.config import BLOCK_SIZE, TOKEN_BUDGET, ModelConfig
from cierzo.errors import ModelTooLargeError, SettingError

NUM_FULL_SEQUENCES = 8
"""Sequences of the model's own length that the KV cache is made for, where memory allows: most are
far shorter, so this is dozens in practice."""

LEAST_USEFUL_BLOCKS = 16
"""Without a `max_model_len` asked for, a machine that cannot hold these 256 tokens is too small."""

GIB = 2**30


@dataclass(frozen=True, slots=True)
class KvPlan:
    """`max_model_len` in tokens, `num_blocks` of 16 tokens each."""

    max_model_len: int
    num_blocks: int


def plan_kv_cache(
    config: ModelConfig,
    *,
    weights_nbytes: int,
    free_bytes: int,
    memory_share: float,
    max_model_len: int | None,
    max_running: int,
    token_budget: int = TOKEN_BUDGET,
) -> KvPlan:
    """Blocks for `max_running` sequences of a `max_model_len` that was asked for, or for eight of
    the model's own, within `memory_share` of the memory that the weights leave free; at least
    for one. What lies behind every layer's window takes none.

    With `max_model_len` None it is the model's own, or what memory holds if that is less.
    Raises ModelTooLargeError, with the sums, and SettingError for a `max_model_len` over the
    model's own.
    """
    left_bytes = free_bytes - weights_nbytes
    if left_bytes <= 0:
        raise ModelTooLargeError(
            f"the weights take {_gib(weights_nbytes)}, but {_gib(free_bytes)} of memory are free; "
            "choose a smaller dtype (int8, int4) or a smaller model"
        )
    block_bytes = config.kv_bytes_per_token * BLOCK_SIZE
    most_blocks = int(left_bytes * memory_share) // block_bytes
    length = max_model_len or config.max_seq_len
    if length > config.max_seq_len:
        raise SettingError(
            f"max_model_len {length} is over the {config.max_seq_len} tokens that the model was "
            "made for; lower it or leave it unset"
        )
    blocks_each = config.kv_blocks(length, token_budget)
    if blocks_each > most_blocks and max_model_len is None and most_blocks >= LEAST_USEFUL_BLOCKS:
        length, blocks_each = most_blocks * BLOCK_SIZE, most_blocks
    if blocks_each > most_blocks:
        raise ModelTooLargeError(
            f"the KV cache of one sequence of {length} tokens takes {blocks_each} blocks × "
            f"{block_bytes} bytes = {_gib(blocks_each * block_bytes)}, but it may "
            f"have {memory_share:.0%} of {_gib(left_bytes)} (memory free beside the weights) = "
            f"{_gib(int(left_bytes * memory_share))}; lower max_model_len to "
            f"{most_blocks * BLOCK_SIZE} or raise memory_share"
        )
    num_sequences = NUM_FULL_SEQUENCES if max_model_len is None else max_running
    return KvPlan(length, min(most_blocks, num_sequences * blocks_each))


def _gib(nbytes: int) -> str:
    return f"{nbytes / GIB:.2f} GiB"
