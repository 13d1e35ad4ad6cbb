"""moe: equal to its twin, the same bits in batch and alone, only chosen experts touched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from cierzo.config import WeightDtype
from cierzo.kernels import (
    PackedWeight,
    Tensor,
    available_isas,
    moe,
    pack_bf16,
    pack_quantized,
    quantize,
    reference,
    set_isa,
    set_num_threads,
    unpack,
)
from tests.kernels.weights import normal

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SparseLayer:
    router: Floats
    gate_up: PackedWeight
    down: PackedWeight
    gate_up_numbers: list[Floats]
    down_numbers: list[Floats]
    dtype: WeightDtype


def pack(w: Floats, dtype: WeightDtype) -> tuple[NDArray[np.uint8], bool]:
    if dtype == "bf16":
        return pack_bf16(w), False
    bits = 4 if dtype == "int4" else 8
    values, scales, minimums = quantize(w, bits)
    return pack_quantized(values, scales, minimums, bits), minimums is not None


def quarter(seed: int, *shape: int) -> Floats:
    return normal(seed, *shape) / np.float32(4)


def sparse_layer(dtype: WeightDtype, num_experts: int, dim: int, hidden: int) -> SparseLayer:
    stacks: dict[str, list[NDArray[np.uint8]]] = {"gate_up": [], "down": []}
    numbers: dict[str, list[Floats]] = {"gate_up": [], "down": []}
    affine = False
    for e in range(num_experts):
        gate, up = quarter(10 + e, hidden, dim), quarter(50 + e, hidden, dim)
        matrices: dict[str, Floats] = {
            "gate_up": reference.interleave_gate_up(gate, up),
            "down": quarter(90 + e, dim, hidden),
        }
        for name, matrix in matrices.items():
            data, affine = pack(matrix, dtype)
            stacks[name].append(data)
            numbers[name].append(unpack(data, dtype, affine, *matrix.shape))
    n_out = numbers["gate_up"][0].shape[0]
    return SparseLayer(
        router=normal(3, num_experts, dim),
        gate_up=PackedWeight(
            np.concatenate(stacks["gate_up"]), dtype, affine, n_out, dim, num_experts
        ),
        down=PackedWeight(np.concatenate(stacks["down"]), dtype, affine, dim, hidden, num_experts),
        gate_up_numbers=numbers["gate_up"],
        down_numbers=numbers["down"],
        dtype=dtype,
    )


def run(
    layer: SparseLayer, x: Floats, h: Floats, num_experts_per_tok: int
) -> tuple[Floats, Floats]:
    out, counts = Tensor.from_numpy(x), Tensor(1, len(layer.router))
    moe(
        out,
        Tensor.from_numpy(h),
        Tensor.from_numpy(layer.router),
        layer.gate_up,
        layer.down,
        num_experts_per_tok,
        counts,
    )
    return out.numpy().copy(), counts.numpy()[0].copy()


@pytest.mark.parametrize("dtype", ["int4", "int8", "bf16"])
@pytest.mark.parametrize(("num_experts", "per_tok"), [(1, 1), (4, 2), (8, 2), (3, 3)])
@pytest.mark.parametrize("rows", [0, 1, 5, 40])
def test_matches_its_twin(
    each_isa: str, dtype: WeightDtype, num_experts: int, per_tok: int, rows: int
) -> None:
    layer = sparse_layer(dtype, num_experts, dim=40, hidden=24)
    x, h = normal(1, rows, 40), normal(2, rows, 40)
    got, counts = run(layer, x, h, per_tok)
    expected = reference.moe(
        x, h, layer.router, layer.gate_up_numbers, layer.down_numbers, per_tok, dtype
    )
    # The inner activations are rounded again: a last-bit difference before that may move one step.
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=0.02 * float(np.abs(expected).max(initial=1))
    )
    assert np.abs(got - expected).mean() < 1e-3 if rows else True
    assert counts.sum() == rows * per_tok


@pytest.mark.parametrize("dtype", ["int4", "int8", "bf16"])
def test_same_bits_in_batch_and_alone_on_every_instruction_set(dtype: WeightDtype) -> None:
    layer = sparse_layer(dtype, 4, dim=72, hidden=40)
    x, h = normal(1, 50, 72), normal(2, 50, 72)
    set_isa("portable")
    expected, _ = run(layer, x, h, 2)
    for name in available_isas():
        set_isa(name)
        for threads in (1, 2, 3):
            set_num_threads(threads)
            for rows in (slice(0, 50), slice(0, 1), slice(7, 8), slice(10, 33)):
                got, _ = run(layer, x[rows], h[rows], 2)
                np.testing.assert_array_equal(got, expected[rows], err_msg=name)


def test_all_rows_on_one_expert(each_isa: str) -> None:
    layer = sparse_layer("int4", 4, dim=32, hidden=32)
    h = np.abs(normal(2, 33, 32))
    router = np.full((4, 32), -1, np.float32)
    router[2] = 1
    one = SparseLayer(**{**layer.__dict__, "router": router})
    got, counts = run(one, np.zeros((33, 32), np.float32), h, 1)
    np.testing.assert_array_equal(counts, [0, 0, 33, 0])
    hidden = reference.matmul_swiglu(h, layer.gate_up_numbers[2], 32, "int4")
    expected = reference.matmul(hidden, layer.down_numbers[2], "int4")
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.02 * float(np.abs(expected).max()))


def test_ties_go_to_the_lowest_expert(each_isa: str) -> None:
    layer = sparse_layer("bf16", 4, dim=32, hidden=16)
    tied = SparseLayer(**{**layer.__dict__, "router": np.ones((4, 32), np.float32)})
    _, counts = run(tied, normal(1, 6, 32), normal(2, 6, 32), 2)
    np.testing.assert_array_equal(counts, [6, 6, 0, 0])


def test_unchosen_experts_are_not_touched(each_isa: str) -> None:
    """Experts filled with NaN scales would poison every sum they enter."""
    layer = sparse_layer("int4", 3, dim=32, hidden=32)
    router = np.full((3, 32), -1, np.float32)
    router[1] = 1
    stacks = []
    for weight, matrices in (
        (layer.gate_up, layer.gate_up_numbers),
        (layer.down, layer.down_numbers),
    ):
        good, affine = pack(matrices[1], "int4")
        poison = np.full_like(good, 0xFF)
        data = np.concatenate([poison, good, poison])
        stacks.append(PackedWeight(data, "int4", affine, weight.n_out, weight.n_in, 3))
    poisoned = SparseLayer(router, stacks[0], stacks[1], [], [], "int4")
    got, counts = run(poisoned, normal(1, 20, 32), np.abs(normal(2, 20, 32)), 1)
    assert np.isfinite(got).all() and counts[1] == 20


def test_a_router_of_nan_still_chooses(each_isa: str) -> None:
    layer = sparse_layer("int8", 3, dim=32, hidden=16)
    broken = SparseLayer(**{**layer.__dict__, "router": np.full((3, 32), np.nan, np.float32)})
    _, counts = run(broken, normal(1, 4, 32), normal(2, 4, 32), 2)
    assert counts.sum() == 8


@pytest.mark.parametrize(
    ("per_tok", "dim", "message"),
    [
        (0, 32, r"moe: num_experts_per_tok must be between 1 and the router's 3; got 0"),
        (4, 32, r"moe: num_experts_per_tok must be between 1 and the router's 3; got 4"),
        (2, 48, r"moe: router must be \[num_experts, dim\]"),
    ],
)
def test_wrong_arguments_are_refused(per_tok: int, dim: int, message: str) -> None:
    layer = sparse_layer("int8", 3, dim=32, hidden=16)
    with pytest.raises(ValueError, match=message):
        run(layer, normal(1, 4, dim), normal(2, 4, dim), per_tok)
