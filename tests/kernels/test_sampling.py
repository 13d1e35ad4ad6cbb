"""Sampling reductions: the twin's answers on every instruction set, exact nucleus included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cierzo import kernels
from cierzo.kernels import (
    Tensor,
    apply_mask,
    argmax,
    logsumexp,
    reference_attention,
    sample,
    top_k,
)
from tests.kernels.paged import Floats, Ints

VOCAB_SIZES = [1, 15, 16, 17, 500, 513, 4099]


@pytest.fixture(params=kernels.available_isas(), autouse=True)
def isa(request: pytest.FixtureRequest, restored_machine: None) -> None:
    kernels.set_isa(request.param)


def random_logits(rows: int, vocab_size: int, spread: float = 3.0) -> Floats:
    """Rounded, so that there are ties."""
    rng = np.random.default_rng(vocab_size)
    return np.round(rng.standard_normal((rows, vocab_size), np.float32) * spread, 2)


def draw(
    logits: Floats, uniform: float, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> int:
    """One draw from one row [V]."""
    ids = sample(
        Tensor.from_numpy(logits[None, :]),
        np.array([temperature], np.float32),
        np.array([top_k], np.int32),
        np.array([top_p], np.float32),
        np.array([uniform]),
    )
    return int(ids[0])


def draws(logits: Floats, temperature: float, top_k: int, top_p: float, uniforms: Floats) -> Ints:
    """One draw for each uniform, all from the same row, as one batch."""
    n = len(uniforms)
    return sample(
        Tensor.from_numpy(np.repeat(logits[None, :], n, axis=0)),
        np.full(n, temperature, np.float32),
        np.full(n, top_k, np.int32),
        np.full(n, top_p, np.float32),
        uniforms.astype(np.float64),
    )


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_argmax_and_logsumexp(rows: int, vocab_size: int) -> None:
    logits = random_logits(rows, vocab_size)
    tensor = Tensor.from_numpy(logits)
    np.testing.assert_array_equal(argmax(tensor), reference_attention.argmax(logits))
    want = reference_attention.logsumexp(logits)
    np.testing.assert_allclose(logsumexp(tensor), want, rtol=1e-6, atol=1e-6)


def test_argmax_of_odd_rows() -> None:
    rows = np.full((4, 40), -np.inf, np.float32)
    rows[1, 33] = -1e30
    rows[2] = np.nan
    rows[2, 7] = -5.0
    rows[3, [9, 31]] = np.inf
    assert argmax(Tensor.from_numpy(rows)).tolist() == [0, 33, 7, 9]


def test_logsumexp_of_odd_rows() -> None:
    rows = np.full((2, 40), -np.inf, np.float32)
    rows[1, 3] = 1e4
    assert logsumexp(Tensor.from_numpy(rows)).tolist() == [-np.inf, 1e4]


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("k", [1, 2, 20, 4099])
def test_top_k(k: int, vocab_size: int) -> None:
    logits = random_logits(3, vocab_size)
    k = min(k, vocab_size)
    ids, values = top_k(Tensor.from_numpy(logits), 1, k)
    want_ids, want_values = reference_attention.top_k(logits[1], k)
    np.testing.assert_array_equal(ids, want_ids)
    np.testing.assert_array_equal(values, want_values)


@pytest.mark.parametrize(("row", "k"), [(3, 1), (-1, 1), (0, 0), (0, 41), (0, 1 << 60)])
def test_top_k_refuses(row: int, k: int) -> None:
    with pytest.raises(ValueError, match="top_k: (row|k) must be in"):
        top_k(Tensor(3, 40), row, k)


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize(
    ("k", "p"), [(0, 1.0), (0, 0.9), (0, 1e-6), (5, 1.0), (40, 0.5), (1, 1.0), (10**9, 0.999)]
)
def test_sample_matches_the_twin(vocab_size: int, temperature: float, k: int, p: float) -> None:
    logits = random_logits(1, vocab_size)[0]
    uniforms = np.random.default_rng(3).random(40).astype(np.float32)
    uniforms[:2] = 0.0, 0.9999
    want = [
        reference_attention.sample(logits, temperature, k, float(np.float32(p)), float(u))
        for u in uniforms
    ]
    np.testing.assert_array_equal(draws(logits, temperature, k, p, uniforms), want)


def test_the_draw_stays_inside_what_top_k_and_top_p_keep() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    uniforms = np.linspace(0, 1, 50, endpoint=False, dtype=np.float32)
    assert set(draws(logits, 1.0, 0, 1.0, uniforms).tolist()) == {0, 1, 2, 3}
    assert set(draws(logits, 1.0, 3, 1.0, uniforms).tolist()) == {1, 2, 3}
    assert set(draws(logits, 1.0, 0, 0.65, uniforms).tolist()) == {1, 3}
    assert set(draws(logits, 1.0, 3, 0.5, uniforms).tolist()) == {1, 3}  # of the 0.9 kept
    assert set(draws(logits, 1.0, 0, 0.01, uniforms).tolist()) == {1}


def test_equal_logits_go_by_lowest_id() -> None:
    logits = np.zeros(1000, np.float32)
    assert [draw(logits, u, top_k=4) for u in (0.0, 0.3, 0.6, 0.99)] == [0, 1, 2, 3]
    assert draw(logits, 0.999999, top_p=0.01) == 9


def test_masked_and_nan_logits_are_never_drawn() -> None:
    logits = np.full(700, -np.inf, np.float32)
    logits[[3, 600]] = 0.0, 0.0
    logits[[2, 650]] = np.nan
    last = float(np.nextafter(1.0, 0.0))
    for options in ({}, {"top_k": 690}, {"top_p": 0.9999999}):
        assert draw(logits, 0.0, **options) == 3
        assert draw(logits, last, **options) == 600
    assert draw(np.full(40, -np.inf, np.float32), 0.5) == 0


@pytest.mark.parametrize("temperature", [1e-30, 1e-7, 1e-5])
def test_tiny_temperatures_are_the_argmax(temperature: float) -> None:
    logits = random_logits(1, 500)[0]
    assert draw(logits, 0.999, temperature) == int(np.argmax(logits))


def test_rows_do_not_depend_on_the_batch_or_the_threads() -> None:
    logits = random_logits(9, 4099)
    rng = np.random.default_rng(0)
    temperature = rng.uniform(0, 2, 9).astype(np.float32)
    k = rng.integers(0, 50, 9).astype(np.int32)
    p = rng.uniform(0.1, 1, 9).astype(np.float32)
    uniform = rng.random(9)
    alone = [
        draw(row, u, float(t), int(kk), float(pp))
        for row, u, t, kk, pp in zip(logits, uniform, temperature, k, p, strict=True)
    ]
    for num_threads in (1, 4):
        kernels.set_num_threads(num_threads)
        ids = sample(Tensor.from_numpy(logits), temperature, k, p, uniform)
        assert ids.tolist() == alone


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", [-1.0], "temperature must be finite and >= 0; got -1"),
        ("temperature", [np.nan], "temperature must be finite"),
        ("temperature", [1.0, 1.0], "temperature must be one value per row of logits, 1; got 2"),
        ("top_k", [-1], r"top_k must be >= 0 \(0 = off\); got -1"),
        ("top_p", [0.0], r"top_p must be in \(0, 1\]; got 0"),
        ("top_p", [1.5], r"top_p must be in \(0, 1\]; got 1.5"),
        ("uniform", [1.0], r"uniform must be in \[0, 1\); got 1.0"),
        ("uniform", [], "uniform must be one value per row of logits, 1; got 0"),
    ],
)
def test_sample_refuses(name: str, value: list[float], message: str) -> None:
    arguments: dict[str, Any] = {
        "temperature": np.ones(1, np.float32),
        "top_k": np.zeros(1, np.int32),
        "top_p": np.ones(1, np.float32),
        "uniform": np.zeros(1),
    }
    arguments[name] = np.array(value, arguments[name].dtype)
    with pytest.raises(ValueError, match=f"sample: {message}"):
        sample(Tensor(1, 40), **arguments)


@pytest.mark.parametrize("vocab_size", [1, 31, 32, 33, 100])
def test_apply_mask(vocab_size: int) -> None:
    logits = random_logits(2, vocab_size)
    words = np.random.default_rng(0).integers(0, 1 << 32, -(-vocab_size // 32), np.uint32)
    words[0] = 0xFFFFFFFF if vocab_size > 40 else words[0]
    tensor = Tensor.from_numpy(logits)
    apply_mask(tensor, 1, words)
    np.testing.assert_array_equal(tensor.numpy()[0], logits[0])
    np.testing.assert_array_equal(
        tensor.numpy()[1], reference_attention.apply_mask(logits[1], words)
    )


def test_apply_mask_refuses() -> None:
    with pytest.raises(ValueError, match="apply_mask: mask must be 2 words; got 1"):
        apply_mask(Tensor(1, 33), 0, np.zeros(1, np.uint32))
    with pytest.raises(ValueError, match=r"apply_mask: row must be in \[0, 1\); got 1"):
        apply_mask(Tensor(1, 33), 1, np.zeros(2, np.uint32))
