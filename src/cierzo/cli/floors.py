"""The least time that a model's work can take on a machine, from the work's own numbers.

Decode has to read the weights that a step's tokens use and the keys and values before them; prefill
has to do its multiply-adds. Whichever of the two takes longer at the machine's rates is the floor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cierzo.cli.roofline import Roofline
from cierzo.cli.speed import Load
from cierzo.config import KvCacheDtype, ModelConfig
from cierzo.errors import SettingError
from cierzo.models.packed_folder import PackedEntry


@dataclass(frozen=True, slots=True)
class ModelBytes:
    """Packed weights by how often a step reads them. `is_bf16`: most of them are."""

    every_step: int  # projections, norms, routers, the head
    experts: int  # all experts of all layers
    embedding: int  # a few rows of it only: nothing where it is not the head too
    is_bf16: bool

    @property
    def total(self) -> int:
        return self.every_step + self.experts + self.embedding


@dataclass(frozen=True, slots=True)
class Work:
    """What has to be done at least. Reading: `nbytes`; counting: `ops`, two per multiply-add."""

    ops: float
    nbytes: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.ops / self.nbytes


@dataclass(frozen=True, slots=True)
class Reached:
    """A measured rate beside the most that the machine allows, `floor_tok_s`, and what stands in
    its way. `ops_per_byte` and `ops_s` place the run in a roofline."""

    floor_tok_s: float
    fraction: float
    limit: Literal["memory", "arithmetic"]
    ops_per_byte: float
    ops_s: float


@dataclass(frozen=True, slots=True)
class Rates:
    """The machine's rates for one model: reading a working set of its size, and multiplying."""

    read_bytes_s: float
    prompt_ops_s: float
    completion_ops_s: float


def model_bytes(entries: Iterable[PackedEntry], config: ModelConfig) -> ModelBytes:
    every_step = experts = embedding = bf16 = 0
    for entry in entries:
        bf16 += entry.nbytes if entry.dtype == "bf16" else 0
        if entry.n_experts > 1:
            experts += entry.nbytes
        elif entry.name == "embedding" and not config.tied_embeddings:
            embedding += entry.nbytes
        else:
            every_step += entry.nbytes
    total = every_step + experts + embedding
    return ModelBytes(every_step, experts, embedding, 2 * bf16 > total)


def expert_share(config: ModelConfig, num_tokens: int) -> float:
    """The share of experts that at least one of `num_tokens` tokens chooses, on average, when the
    router favours none: 2 of 8 by one token, 3.5 of 8 by two."""
    if config.moe is None:
        return 1.0
    missed = 1 - config.moe.num_experts_per_tok / config.moe.num_experts
    return 1 - missed**num_tokens


def decode_work(
    config: ModelConfig,
    weights: ModelBytes,
    batch: int,
    context: float,
    kv_cache_dtype: KvCacheDtype = "bf16",
) -> Work:
    """One step of `batch` sequences that have `context` tokens each behind them."""
    products = batch * (_layer_multiply_adds(config) + _head_multiply_adds(config))
    attended = sum(min(context, window or context) for window in config.sliding_window)
    attention = batch * attended * 2 * config.n_heads * config.head_dim
    kv_nbytes = batch * attended * config.kv_bytes_per_token(kv_cache_dtype) / config.n_layers
    read = weights.every_step + weights.experts * expert_share(config, batch)
    return Work(2 * (products + attention), read + kv_nbytes)


def prefill_work(
    config: ModelConfig, weights: ModelBytes, batch: int, prompt: int, cached: int = 0
) -> Work:
    """`prompt` new tokens behind `cached` known ones in each of `batch` sequences. The head is
    computed for the last token of each; the weights are read once."""
    products = batch * (prompt * _layer_multiply_adds(config) + _head_multiply_adds(config))
    pairs = sum(_attended_pairs(prompt, cached, window) for window in config.sliding_window)
    attention = batch * pairs * 2 * config.n_heads * config.head_dim
    read = weights.every_step + weights.experts * expert_share(config, batch * prompt)
    return Work(2 * (products + attention), read)


def reached(
    work: Work, num_tokens: int, tok_s: float, read_bytes_s: float, ops_s: float
) -> Reached:
    """`num_tokens` tokens come of `work`; `tok_s` of them came in a second."""
    reading, counting = work.nbytes / read_bytes_s, work.ops / ops_s
    floor_tok_s = num_tokens / max(reading, counting)
    return Reached(
        round(floor_tok_s, 1),
        round(tok_s / floor_tok_s, 3),
        "memory" if reading > counting else "arithmetic",
        round(work.intensity, 2),
        round(work.ops * tok_s / num_tokens),
    )


def rates_for(weights: ModelBytes, machine: Roofline, isa: str, threads: int) -> Rates:
    """Prompts are multiplied in bf16 where there are tiles for it, completions of quantised weights
    in int8 (decision 0008)."""

    def best(*units: str) -> float:
        rates = (machine.ops_s(isa, unit, threads) for unit in units)
        rate = next((rate for rate in rates if rate > 0), 0.0)
        if rate == 0.0:
            raise SettingError(f"the rates were not measured for {isa} with {threads} threads")
        return rate

    quantised = () if weights.is_bf16 else ("int8",)
    return Rates(
        machine.read_bytes_s(threads, weights.total),
        best("amx_bf16_l1", *quantised, "f32"),
        best("amx_bf16_l1" if weights.is_bf16 else "amx_int8_l1", *quantised, "f32"),
    )


def prefill_reached(
    config: ModelConfig, weights: ModelBytes, rates: Rates, load: Load, tok_s: float
) -> Reached:
    work = prefill_work(config, weights, load.batch, load.prompt, load.cached)
    num_tokens = load.batch * load.prompt
    return reached(work, num_tokens, tok_s, rates.read_bytes_s, rates.prompt_ops_s)


def decode_reached(
    config: ModelConfig,
    weights: ModelBytes,
    rates: Rates,
    load: Load,
    tok_s: float,
    kv_cache_dtype: KvCacheDtype = "bf16",
) -> Reached:
    """Of the step in the middle of the answer."""
    context = load.cached + load.prompt + load.generate / 2
    work = decode_work(config, weights, load.batch, context, kv_cache_dtype)
    return reached(work, load.batch, tok_s, rates.read_bytes_s, rates.completion_ops_s)


def _layer_multiply_adds(config: ModelConfig) -> int:
    """Of one token in all layers' products."""
    c = config
    heads = (2 * c.n_heads + 2 * c.n_kv_heads) * c.head_dim
    experts, router = 1, 0
    if c.moe is not None:
        experts, router = c.moe.num_experts_per_tok, c.moe.num_experts
    return c.n_layers * c.dim * (heads + router + experts * 3 * c.hidden_dim)


def _head_multiply_adds(config: ModelConfig) -> int:
    return config.dim * config.vocab_size


def _attended_pairs(prompt: int, cached: int, window: int | None) -> int:
    """(new token, token it attends to), the token itself included.

    >>> _attended_pairs(3, 0, None), _attended_pairs(2, 3, None), _attended_pairs(4, 0, 2)
    (6, 9, 7)
    """
    ends = range(cached + 1, cached + prompt + 1)
    return sum(ends) if window is None else sum(min(end, window) for end in ends)
