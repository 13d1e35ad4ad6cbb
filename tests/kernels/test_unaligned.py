"""Arrays that begin between two addresses of their type are refused, not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from cierzo import kernels
from cierzo.kernels import ForwardInput, Tensor

Scalar = TypeVar("Scalar", bound=np.generic)


def unaligned(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """The same values, one byte past where they should begin."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(array.tobytes(), np.uint8)
    return raw[1:].view(array.dtype).reshape(array.shape)


def step(token_ids: NDArray[np.int32]) -> ForwardInput:
    zeros, floats = np.zeros(1, np.int32), np.zeros((1, 4), np.float32)
    tables = np.zeros((1, 1), np.int32)
    ends = np.array([0, 1], np.int32)
    return ForwardInput(
        token_ids, zeros, zeros, ends, zeros + 1, tables, floats, floats, floats[:, 0].copy()
    )


def sample(uniform: NDArray[np.float64]) -> NDArray[np.int32]:
    ones = np.ones(1, np.float32)
    return kernels.sample(Tensor(1, 4), ones, np.zeros(1, np.int32), ones, uniform)


@pytest.mark.parametrize(
    ("call", "array"),
    [
        (kernels.pack_bf16, np.ones((2, 32), np.float32)),
        (lambda w: kernels.quantize(w, 4), np.ones((2, 32), np.float32)),
        (lambda rows: kernels.gather_rows(Tensor(1, 4), Tensor(2, 4), rows), np.zeros(1, np.int32)),
        (step, np.zeros(1, np.int32)),
        (sample, np.zeros(1, np.float64)),
        (lambda mask: kernels.apply_mask(Tensor(1, 4), 0, mask), np.ones(1, np.uint32)),
    ],
    ids=["pack_bf16", "quantize", "gather_rows", "ForwardInput", "sample", "apply_mask"],
)
def test_refused(call: Callable[[NDArray[Any]], Any], array: NDArray[Any]) -> None:
    call(array)
    with pytest.raises(ValueError, match="unaligned"):
        call(unaligned(array))
