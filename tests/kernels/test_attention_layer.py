"""attention_layer: to the bit what norm, products, RoPE and attention give one by one."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from cierzo.config import WeightDtype
from cierzo.kernels import (
    ForwardInput,
    KVCache,
    RMSNorm,
    Tensor,
    attention,
    attention_layer,
    matmul,
    rope_and_store,
    set_num_threads,
)
from tests.kernels.paged import angles
from tests.kernels.weights import FORMATS, normal, random_weight

HEAD_DIM, N_HEADS, N_KV_HEADS, DIM = 16, 6, 3, 96
STEPS = [(40, 40), (1, 0), (1, 0), (5, 0), (1, 1), (1, 0)]
"""(tokens, prompt tokens) of one sequence's steps."""


def step_of(begin: int, count: int, num_prompt_tokens: int) -> ForwardInput:
    positions = np.arange(begin, begin + count, dtype=np.int32)
    cos, sin = angles(positions, HEAD_DIM)
    return ForwardInput(
        np.zeros(count, np.int32),
        positions,
        positions,
        np.array([0, count], np.int32),
        np.array([begin + count], np.int32),
        np.arange(-(-(begin + count) // 16), dtype=np.int32)[None],
        cos,
        sin,
        np.full(count, 0.25, np.float32),
        num_prompt_tokens,
    )


@pytest.mark.parametrize("sliding_window", [0, 7])
@pytest.mark.parametrize(("dtype", "affine"), FORMATS)
def test_attention_layer_is_its_parts(
    each_isa: str, dtype: WeightDtype, affine: bool, sliding_window: int
) -> None:
    qkv_proj = random_weight(dtype, affine, (N_HEADS + 2 * N_KV_HEADS) * HEAD_DIM, DIM, 1).packed
    o_proj = random_weight(dtype, affine, DIM, N_HEADS * HEAD_DIM, 2).packed
    norm = RMSNorm(Tensor.from_numpy(normal(3, 1, DIM)), 1e-5)
    qkv = Tensor(0, (N_HEADS + 2 * N_KV_HEADS) * HEAD_DIM)
    q, attended = Tensor(0, N_HEADS * HEAD_DIM), Tensor(0, N_HEADS * HEAD_DIM)
    for threads, kv_dtype in product((1, 2, 3), ("bf16", "int8")):
        set_num_threads(threads)
        caches = [KVCache(2, 4, N_KV_HEADS, HEAD_DIM, kv_dtype) for _ in range(2)]
        begin = 0
        for count, num_prompt_tokens in STEPS:
            step, rows = step_of(begin, count, num_prompt_tokens), normal(begin, count, DIM)
            expected, x = Tensor.from_numpy(rows), Tensor.from_numpy(rows)
            matmul(qkv, expected, qkv_proj, False, num_prompt_tokens, norm)
            rope_and_store(q, qkv, step, caches[0], 1, N_HEADS)
            attention(attended, q, step, caches[0], 1, sliding_window)
            matmul(expected, attended, o_proj, True, num_prompt_tokens)
            attention_layer(x, qkv_proj, o_proj, norm, step, caches[1], 1, N_HEADS, sliding_window)
            np.testing.assert_array_equal(x.numpy(), expected.numpy())
            begin += count


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": Tensor(1, 80)}, "attention_layer: qkv_proj must be"),
        ({"x": Tensor(2, DIM)}, "attention_layer: x must be of 1 rows"),
        ({"layer": 2}, "attention_layer: layer must be"),
        ({"n_heads": 5}, "attention_layer: n_heads must be"),
        ({"n_heads": 3}, "attention_layer: qkv_proj must be"),
        ({"o_proj": random_weight("int4", False, DIM, 32).packed}, "attention_layer: o_proj"),
        ({"norm": RMSNorm(Tensor.from_numpy(normal(1, 1, 80)), 0.0)}, "attention_layer: norm"),
        ({"sliding_window": -1}, "attention_layer: sliding_window must be"),
    ],
)
def test_attention_layer_says_what_is_wrong(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "x": Tensor(1, DIM),
        "qkv_proj": random_weight("int4", False, 192, DIM).packed,
        "o_proj": random_weight("int4", False, DIM, 96).packed,
        "norm": RMSNorm(Tensor.from_numpy(normal(1, 1, DIM)), 0.0),
        "inp": step_of(0, 1, 0),
        "kv_cache": KVCache(2, 4, N_KV_HEADS, HEAD_DIM),
        "layer": 1,
        "n_heads": N_HEADS,
    }
    with pytest.raises(ValueError, match=message):
        attention_layer(**(arguments | change))
