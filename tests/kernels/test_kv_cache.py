"""KVCache: its size, its zeros, and its refusals."""

from __future__ import annotations

import pytest

from cierzo.kernels import KVCache


def test_size() -> None:
    kv_cache = KVCache(n_layers=30, num_blocks=7, n_kv_heads=3, head_dim=64)
    assert kv_cache.nbytes == 30 * 7 * 16 * 3 * 64 * 2 * 2
    assert (kv_cache.n_layers, kv_cache.num_blocks) == (30, 7)
    assert (kv_cache.n_kv_heads, kv_cache.head_dim) == (3, 64)


def test_size_in_int8() -> None:
    kv_cache = KVCache(30, 7, 3, 64, dtype="int8")
    assert kv_cache.nbytes == 30 * 7 * 16 * 3 * (64 + 2) * 2
    assert kv_cache.dtype == "int8"
    assert KVCache(1, 1, 1, 64).dtype == "bf16"


def test_a_type_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="KVCache: dtype must be bf16 or int8; got fp8"):
        KVCache(1, 1, 1, 64, "fp8")


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_begins_as_zeros(dtype: str) -> None:
    k, v = KVCache(2, 3, 2, 10, dtype).read(1, 2)
    assert k.shape == v.shape == (16, 2, 10)
    assert not k.any() and not v.any()


def test_a_large_cache_takes_no_memory_until_used() -> None:
    assert KVCache(1, 1 << 20, 1, 256).nbytes == 1 << 34


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 1, 1, 64), "n_layers must be between 1 and 65536; got 0"),
        ((1, 0, 1, 64), "num_blocks must be between 1 and 134217727; got 0"),
        ((1, 1, -1, 64), "n_kv_heads must be between 1 and 4096; got -1"),
        ((1, 1, 1, 258), "head_dim must be between 2 and 256; got 258"),
        ((1, 1, 1, 63), "head_dim must be even; got 63"),
    ],
)
def test_sizes_out_of_range(sizes: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"KVCache: {message}"):
        KVCache(*sizes)


def test_more_than_any_machine_has() -> None:
    with pytest.raises(MemoryError):
        KVCache(65536, 134217727, 4096, 256)


@pytest.mark.parametrize(("layer", "block"), [(-1, 0), (1, 0), (0, -1), (0, 2)])
def test_reading_what_is_not_there(layer: int, block: int) -> None:
    with pytest.raises(ValueError, match="KVCache.read: layer and block must be below 1 and 2"):
        KVCache(1, 2, 1, 16).read(layer, block)


@pytest.mark.parametrize(("source", "target"), [(-1, 0), (0, 2)])
def test_copying_what_is_not_there(source: int, target: int) -> None:
    with pytest.raises(ValueError, match="KVCache.copy_block: blocks must be below 2"):
        KVCache(1, 2, 1, 16).copy_block(source, target)
