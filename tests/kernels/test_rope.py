"""rope_and_store: bit-equal to its twin; keys and values land in the right slots, as bf16."""

from __future__ import annotations

import numpy as np
import pytest

from cierzo import kernels
from cierzo.kernels import ForwardInput, KVCache, Tensor, rope_and_store
from cierzo.kernels.reference_attention import rope, round_to_bf16, round_to_int8
from tests.kernels.paged import Floats, Ints, angles


def step_for(slots: Ints, cos: Floats, sin: Floats, query_scale: Floats) -> ForwardInput:
    """One sequence whose blocks are never read."""
    t = len(slots)
    return ForwardInput(
        np.zeros(t, np.int32),
        np.arange(t, dtype=np.int32),
        slots,
        np.array([0, t], np.int32),
        np.array([t], np.int32),
        np.zeros((1, -(-t // 16)), np.int32),
        cos,
        sin,
        query_scale,
    )


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("head_dim", [2, 16, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("num_tokens", [0, 1, 33])
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_bit_equal_to_the_twin(
    num_tokens: int, head_dim: int, interleaved: bool, dtype: str
) -> None:
    n_heads, n_kv_heads = 6, 2
    stored = round_to_int8 if dtype == "int8" else round_to_bf16
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num_tokens, n_heads + 2 * n_kv_heads, head_dim), np.float32)
    slots = rng.permutation(64)[:num_tokens].astype(np.int32)
    cos, sin = angles(np.arange(7, 7 + num_tokens, dtype=np.int32), head_dim)
    scale = rng.uniform(0.1, 0.2, num_tokens).astype(np.float32)
    want_q = rope(x[:, :n_heads], cos, sin, interleaved=interleaved) * scale[:, None, None]
    want_k = rope(x[:, n_heads:-n_kv_heads], cos, sin, interleaved=interleaved)
    for isa in kernels.available_isas():
        kernels.set_isa(isa)
        kv_cache = KVCache(2, 4, n_kv_heads, head_dim, dtype)
        q = Tensor(0, n_heads * head_dim)
        qkv = Tensor.from_numpy(x.reshape(num_tokens, (n_heads + 2 * n_kv_heads) * head_dim))
        step = step_for(slots, cos, sin, scale)
        rope_and_store(q, qkv, step, kv_cache, 1, n_heads, interleaved)
        np.testing.assert_array_equal(q.numpy().reshape(want_q.shape), want_q)
        blocks = [kv_cache.read(1, block) for block in range(4)]
        for t, slot in enumerate(slots):
            k, v = blocks[slot // 16]
            np.testing.assert_array_equal(k[slot % 16], stored(want_k[t]))
            np.testing.assert_array_equal(v[slot % 16], stored(x[t, -n_kv_heads:]))


def test_other_slots_and_layers_are_left_alone() -> None:
    kv_cache = KVCache(2, 2, 1, 16)
    cos, sin = angles(np.zeros(1, np.int32), 16)
    step = step_for(np.array([17], np.int32), cos, sin, np.ones(1, np.float32))
    rope_and_store(
        Tensor(0, 16), Tensor.from_numpy(np.ones((1, 48), np.float32)), step, kv_cache, 0, 1
    )
    k, v = kv_cache.read(0, 1)
    assert k.sum() == v.sum() == 16.0
    assert k[1].sum() == v[1].sum() == 16.0
    for layer, block in [(0, 0), (1, 0), (1, 1)]:
        assert not any(a.any() for a in kv_cache.read(layer, block))


@pytest.mark.parametrize(
    ("row", "integers"),
    [
        ([127.0, -127.0, 0.5, 1.5], [127, -127, 0, 2]),
        ([1e-37, -1e-37, 0.0, 0.0], [0, 0, 0, 0]),
        ([3e38, -3e38, 1e30, 1.0], [127, -127, 0, 0]),
        ([1.0, np.inf, 0.0, -1.0], None),
        ([1.0, np.nan, 0.0, -1.0], None),
    ],
)
def test_rows_in_int8(each_isa: str, row: list[float], integers: list[int] | None) -> None:
    """Ties go to even, what is too small for a scale is zero; not finite stays not finite."""
    kv_cache = KVCache(1, 1, 1, 4, "int8")
    qkv = Tensor.from_numpy(np.array([[0.0] * 8 + row], np.float32))
    angle = np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32)
    step = step_for(np.array([5], np.int32), *angle, np.ones(1, np.float32))
    rope_and_store(Tensor(0, 4), qkv, step, kv_cache, 0, 1)
    _, v = kv_cache.read(0, 0)
    values = np.array(row, np.float32)
    if integers is None:
        assert np.isnan(v[5]).all()
        return
    np.testing.assert_array_equal(v[5, 0], round_to_int8(values))
    np.testing.assert_array_equal(np.rint(v[5, 0] / (v[5].max() or 1.0) * 127), integers)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_block_is_copied_in_all_layers(dtype: str) -> None:
    kv_cache = KVCache(3, 40, 1, 16, dtype)
    cos, sin = angles(np.zeros(1, np.int32), 16)
    step = step_for(np.array([17], np.int32), cos, sin, np.ones(1, np.float32))
    for layer in range(3):
        qkv = Tensor.from_numpy(np.full((1, 48), 127 << layer, np.float32))
        rope_and_store(Tensor(0, 16), qkv, step, kv_cache, layer, 1)
    kv_cache.copy_block(1, 39)
    for layer in range(3):
        for block in range(40):
            k, v = kv_cache.read(layer, block)
            assert k.sum() == v.sum() == (2032.0 * (1 << layer) if block in (1, 39) else 0.0)


def test_mistakes_are_refused() -> None:
    kv_cache = KVCache(1, 1, 2, 16)
    cos, sin = angles(np.zeros(1, np.int32), 16)
    step = step_for(np.array([3], np.int32), cos, sin, np.ones(1, np.float32))
    q, qkv = Tensor(0, 64), Tensor(1, 128)
    with pytest.raises(ValueError, match="rope_and_store: n_heads must be a multiple of 2 kv"):
        rope_and_store(q, qkv, step, kv_cache, 0, 3)
    with pytest.raises(ValueError, match=r"rope_and_store: qkv must be 2 \+ 2 x 2 heads of 16"):
        rope_and_store(q, qkv, step, kv_cache, 0, 2)
    with pytest.raises(ValueError, match="rope_and_store: q_out must be 64 wide"):
        rope_and_store(Tensor(0, 48), qkv, step, kv_cache, 0, 4)
    with pytest.raises(ValueError, match="rope_and_store: qkv must be of 1 rows"):
        rope_and_store(q, Tensor(2, 128), step, kv_cache, 0, 4)
    with pytest.raises(ValueError, match="rope_and_store: cos must be 16 wide; got 8"):
        rope_and_store(Tensor(0, 128), Tensor(1, 256), step, KVCache(1, 1, 2, 32), 0, 4)
    far = step_for(np.array([16], np.int32), cos, sin, np.ones(1, np.float32))
    with pytest.raises(ValueError, match="rope_and_store: slot_mapping must be .*; got 16"):
        rope_and_store(q, qkv, far, kv_cache, 0, 4)
