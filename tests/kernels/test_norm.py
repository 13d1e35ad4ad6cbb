"""rms_norm: close to its twin, bit-equal whatever the batch, threads and instruction set."""

from __future__ import annotations

import numpy as np
import pytest

from cierzo import kernels
from cierzo.kernels import Tensor, reference_attention, rms_norm


@pytest.mark.parametrize("dim", [1, 15, 16, 576, 1000, 4096])
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_matches_the_twin(rows: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((rows, dim), np.float32), rng.random((1, dim), np.float32)
    results = []
    for isa in kernels.available_isas():
        kernels.set_isa(isa)
        out = Tensor(0, dim)
        rms_norm(out, Tensor.from_numpy(x), Tensor.from_numpy(weight), 1e-5)
        results.append(out.numpy().copy())
    want = reference_attention.rms_norm(x, weight[0], 1e-5)
    np.testing.assert_allclose(results[0], want, rtol=2e-6, atol=1e-7)
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_in_place_alone_and_on_any_threads() -> None:
    rng = np.random.default_rng(1)
    x, weight = (
        rng.standard_normal((64, 576), np.float32),
        Tensor.from_numpy(rng.random((1, 576), np.float32)),
    )
    out = Tensor(0, 576)
    rms_norm(out, Tensor.from_numpy(x), weight, 1e-5)
    for num_threads in (1, 3):
        kernels.set_num_threads(num_threads)
        in_place = Tensor.from_numpy(x)
        rms_norm(in_place, in_place, weight, 1e-5)
        np.testing.assert_array_equal(in_place.numpy(), out.numpy())
    alone = Tensor(0, 576)
    rms_norm(alone, Tensor.from_numpy(x[40:41]), weight, 1e-5)
    np.testing.assert_array_equal(alone.numpy()[0], out.numpy()[40])


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rms_norm: weight must be \[1, 8\]; got \[1, 7\]"):
        rms_norm(Tensor(0, 8), Tensor(2, 8), Tensor(1, 7), 1e-5)
    with pytest.raises(ValueError, match="rms_norm: out must be as wide as x"):
        rms_norm(Tensor(0, 7), Tensor(2, 8), Tensor(1, 8), 1e-5)
    with pytest.raises(ValueError, match="rms_norm: eps must be finite and >= 0"):
        rms_norm(Tensor(0, 8), Tensor(2, 8), Tensor(1, 8), -1.0)
