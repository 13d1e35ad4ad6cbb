"""attention: close to its twin on every shape, and bit-equal however the work is cut."""

from __future__ import annotations

import numpy as np
import pytest

from cierzo import kernels
from cierzo.config import KvCacheDtype
from cierzo.kernels import KVCache, Tensor, attention, reference_attention
from tests.kernels.paged import (
    Floats,
    Sequence,
    Shape,
    angles,
    forward_input,
    make_sequence,
    run,
)

SMOL = Shape(n_heads=9, n_kv_heads=3, head_dim=64)


both_dtypes = pytest.mark.parametrize("dtype", ["bf16", "int8"])
both_classes = pytest.mark.parametrize("is_prompt", [False, True], ids=["completion", "prompt"])


def expected(
    sequence: Sequence,
    shape: Shape,
    sliding_window: int = 0,
    is_prompt: bool = False,
    dtype: KvCacheDtype = "bf16",
) -> Floats:
    """What the twin makes of the whole sequence: [C, n_heads * head_dim]."""
    length, d = len(sequence.qkv), shape.head_dim
    heads = sequence.qkv.reshape(length, -1, d)
    q, k, v = np.split(heads, [shape.n_heads, shape.n_heads + shape.n_kv_heads], axis=1)
    cos, sin = angles(np.arange(length, dtype=np.int32), d)
    q = reference_attention.rope(q, cos, sin) * np.float32(d**-0.5)
    k = reference_attention.rope(k, cos, sin)
    attended = reference_attention.attention(
        q, k, v, sliding_window, is_prompt=is_prompt, kv_cache_dtype=dtype
    )
    return attended.reshape(length, -1)


def assert_close(outputs: Floats, want: Floats, is_prompt: bool) -> None:
    if not is_prompt:
        np.testing.assert_allclose(outputs, want, rtol=1e-4, atol=1e-5)
        return
    # Here and there a weight next to a rounding boundary of bf16 falls to its other side.
    difference = np.abs(outputs - want)
    assert np.max(difference, initial=0.0) < 2**-4
    assert np.mean(difference > 1e-3) < 0.05


def lay_out(
    shape: Shape, lengths: list[int], seed: int = 0, dtype: KvCacheDtype = "bf16"
) -> tuple[KVCache, list[Sequence]]:
    """Sequences over shuffled blocks, in a cache with no block to spare."""
    rng = np.random.default_rng(seed)
    num_blocks = max(sum(-(-length // 16) for length in lengths), 1)
    free = [int(block) for block in rng.permutation(num_blocks)]
    return KVCache(1, num_blocks, shape.n_kv_heads, shape.head_dim, dtype), [
        make_sequence(rng, shape, length, free) for length in lengths
    ]


def whole(
    shape: Shape,
    length: int,
    sliding_window: int = 0,
    is_prompt: bool = False,
    dtype: KvCacheDtype = "bf16",
) -> tuple[Sequence, Floats]:
    """A sequence and its outputs, computed in one step."""
    kv_cache, [sequence] = lay_out(shape, [length], dtype=dtype)
    run(kv_cache, shape, [(sequence, length)], sliding_window, num_prompts=int(is_prompt))
    return sequence, sequence.outputs[0]


@pytest.mark.parametrize("queries_per_kv_head", [1, 3, 8])
@pytest.mark.parametrize("head_dim", [16, 20, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("length", [1, 17, 70])
@both_classes
@both_dtypes
def test_matches_the_twin(
    queries_per_kv_head: int, head_dim: int, length: int, is_prompt: bool, dtype: KvCacheDtype
) -> None:
    shape = Shape(2 * queries_per_kv_head, 2, head_dim)
    sequence, outputs = whole(shape, length, is_prompt=is_prompt, dtype=dtype)
    want = expected(sequence, shape, is_prompt=is_prompt, dtype=dtype)
    assert_close(outputs, want, is_prompt)


@pytest.mark.parametrize("sliding_window", [0, 1, 5, 16, 100, 300])
@both_classes
@both_dtypes
def test_matches_the_twin_past_a_segment(
    sliding_window: int, is_prompt: bool, dtype: KvCacheDtype
) -> None:
    sequence, outputs = whole(SMOL, 555, sliding_window, is_prompt, dtype)
    want = expected(sequence, SMOL, sliding_window, is_prompt, dtype)
    assert_close(outputs, want, is_prompt)


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_a_prompt_whose_scores_grow(isa: str) -> None:
    """Keys along the query, longer and longer: the reference must follow, more than once."""
    kernels.set_isa(isa)
    shape = Shape(n_heads=2, n_kv_heads=1, head_dim=32)
    kv_cache, [sequence] = lay_out(shape, [700])
    heads = sequence.qkv.reshape(700, 4, 32)
    heads[:, :2] = 1.0
    heads[:, 2] *= np.linspace(0.0, 40.0, 700, dtype=np.float32)[:, None]
    run(kv_cache, shape, [(sequence, 700)], num_prompts=1)
    assert_close(sequence.outputs[0], expected(sequence, shape, is_prompt=True), is_prompt=True)


@both_classes
def test_a_group_larger_than_a_tile(is_prompt: bool) -> None:
    shape = Shape(n_heads=21, n_kv_heads=1, head_dim=16)
    sequence, outputs = whole(shape, 19, is_prompt=is_prompt)
    want = expected(sequence, shape, is_prompt=is_prompt)
    assert_close(outputs, want, is_prompt)


@pytest.mark.parametrize("sliding_window", [0, 7, 130])
@pytest.mark.parametrize("chunk", [1, 7, 16, 300])
@both_classes
@both_dtypes
def test_chunks_give_the_same_bits(
    chunk: int, sliding_window: int, is_prompt: bool, dtype: KvCacheDtype
) -> None:
    length = 310
    _, in_one_step = whole(SMOL, length, sliding_window, is_prompt, dtype)
    kv_cache, [sequence] = lay_out(SMOL, [length], dtype=dtype)
    while sequence.num_computed_tokens < length:
        count = min(chunk, length - sequence.num_computed_tokens)
        run(kv_cache, SMOL, [(sequence, count)], sliding_window, num_prompts=int(is_prompt))
    np.testing.assert_array_equal(np.concatenate(sequence.outputs), in_one_step)


@pytest.mark.parametrize("num_prompts", [0, 2, 6])
@both_dtypes
def test_batching_gives_the_same_bits(num_prompts: int, dtype: KvCacheDtype) -> None:
    """Sequences of both classes in one step, and each alone: all but their last few tokens are
    there before."""
    lengths = [1, 40, 600, 0, 16, 257]
    kv_cache, together = lay_out(SMOL, lengths, dtype=dtype)
    before = [(s, max(length - 3, 0)) for s, length in zip(together, lengths, strict=True)]
    run(kv_cache, SMOL, before, num_prompts=num_prompts)
    steps = [(s, len(s.qkv) - s.num_computed_tokens) for s in together]
    run(kv_cache, SMOL, steps, num_prompts=num_prompts)
    for i, sequence in enumerate(together):
        alone = Sequence(sequence.qkv, list(range(len(sequence.blocks))))
        alone_cache = KVCache(1, max(len(alone.blocks), 1), 3, 64, dtype)
        run(alone_cache, SMOL, [(alone, len(alone.qkv))], num_prompts=int(i < num_prompts))
        np.testing.assert_array_equal(np.concatenate(sequence.outputs), alone.outputs[0])


@pytest.mark.parametrize("head_dim", [18, 64, 80])
@pytest.mark.parametrize("queries_per_kv_head", [1, 3, 8])
@both_classes
@both_dtypes
def test_instruction_sets_give_the_same_bits(
    head_dim: int, queries_per_kv_head: int, is_prompt: bool, dtype: KvCacheDtype
) -> None:
    shape = Shape(queries_per_kv_head, 1, head_dim)
    results = []
    for isa in kernels.available_isas():
        kernels.set_isa(isa)
        kv_cache, [sequence] = lay_out(shape, [300], dtype=dtype)
        run(kv_cache, shape, [(sequence, 299)], num_prompts=int(is_prompt))
        run(kv_cache, shape, [(sequence, 1)], num_prompts=int(is_prompt))
        results.append(np.concatenate(sequence.outputs))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_scores_that_overflow_give_the_same_bits() -> None:
    results = []
    for isa in kernels.available_isas():
        kernels.set_isa(isa)
        kv_cache, [sequence] = lay_out(SMOL, [100])
        sequence.qkv[40] *= 1e37
        run(kv_cache, SMOL, [(sequence, 100)], num_prompts=1)
        results.append(sequence.outputs[0])
    assert np.isfinite(results[0][:40]).all() and not np.isfinite(results[0]).all()
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@both_classes
@both_dtypes
def test_threads_give_the_same_bits(is_prompt: bool, dtype: KvCacheDtype) -> None:
    """1 thread walks a whole tile of all heads, 2 share out its segments, 7 those of each head."""
    results = []
    for num_threads in (1, 2, 7):
        kernels.set_num_threads(num_threads)
        kv_cache, [sequence] = lay_out(SMOL, [2100], dtype=dtype)
        run(kv_cache, SMOL, [(sequence, 2099)], num_prompts=int(is_prompt))
        run(kv_cache, SMOL, [(sequence, 1)], num_prompts=int(is_prompt))
        results.append(np.concatenate(sequence.outputs))
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


@pytest.mark.parametrize("length", [15, 21, 33])
@both_classes
@both_dtypes
def test_what_a_reused_block_held_cannot_be_seen(
    length: int, is_prompt: bool, dtype: KvCacheDtype
) -> None:
    rng = np.random.default_rng(0)
    kv_cache = KVCache(1, 3, 3, 64, dtype)
    poison = Sequence(np.full((48, SMOL.width), np.inf, np.float32), [0, 1, 2])
    run(kv_cache, SMOL, [(poison, 48)])
    sequence = make_sequence(rng, SMOL, length, [2, 1, 0])
    run(kv_cache, SMOL, [(sequence, length)], num_prompts=int(is_prompt))
    want = expected(sequence, SMOL, is_prompt=is_prompt, dtype=dtype)
    assert_close(sequence.outputs[0], want, is_prompt)


def test_no_tokens() -> None:
    kv_cache = KVCache(1, 1, 3, 64)
    run(kv_cache, SMOL, [])
    out = Tensor(3, 9 * 64)
    attention(out, Tensor(0, 9 * 64), forward_input([], 64), kv_cache, 0)
    assert out.rows == 0


@both_classes
def test_blocks_behind_the_window_may_be_freed(is_prompt: bool) -> None:
    kv_cache, [sequence] = lay_out(SMOL, [100])
    run(kv_cache, SMOL, [(sequence, 99)], 20)
    # Positions 0..79; 80 is still seen.
    step = forward_input([(sequence, 1)], 64, freed={0: 5}, num_prompts=int(is_prompt))
    q, out = Tensor.from_numpy(np.ones((1, 576), np.float32)), Tensor(0, 576)
    attention(out, q, step, kv_cache, 0, 20)
    with pytest.raises(ValueError, match=r"attention: block_tables must be .* position 79 .* 80"):
        attention(out, q, step, kv_cache, 0, 21)
    with pytest.raises(ValueError, match="attention: block_tables"):
        attention(out, q, step, kv_cache, 0)


def test_mistakes_are_refused() -> None:
    kv_cache, [sequence] = lay_out(SMOL, [20])
    step = forward_input([(sequence, 20)], 64)
    q, out = Tensor(20, 576), Tensor(0, 576)
    with pytest.raises(ValueError, match=r"attention: layer must be in \[0, 1\); got 1"):
        attention(out, q, step, kv_cache, 1)
    with pytest.raises(ValueError, match="attention: q must be of 20 rows"):
        attention(out, Tensor(19, 576), step, kv_cache, 0)
    with pytest.raises(ValueError, match="attention: q must be a multiple of 3 kv heads x 64"):
        attention(out, Tensor(20, 64), step, kv_cache, 0)
    with pytest.raises(ValueError, match="attention: out must be as wide as q"):
        attention(Tensor(0, 64), q, step, kv_cache, 0)
    with pytest.raises(ValueError, match="attention: out must be another tensor than q"):
        attention(q, q, step, kv_cache, 0)
    with pytest.raises(ValueError, match="attention: sliding_window must be >= 0"):
        attention(out, q, step, kv_cache, 0, -1)
    with pytest.raises(ValueError, match="attention: slot_mapping must be slots of 1 blocks"):
        attention(out, q, step, KVCache(1, 1, 3, 64), 0)
