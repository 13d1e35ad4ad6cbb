"""Tensor, the thread pool and the choice of instruction set."""

from __future__ import annotations

import gc
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from cierzo.kernels import (
    Tensor,
    available_isas,
    isa,
    matmul,
    num_threads,
    set_isa,
    set_num_threads,
)
from tests.kernels.weights import normal, random_weight


def test_tensor_is_a_view_of_aligned_memory() -> None:
    t = Tensor(3, 5)
    view = t.numpy()
    assert view.shape == (3, 5) and view.dtype == np.float32 and not view.any()
    assert view.ctypes.data % 64 == 0
    view[1, 2] = 7
    assert t.numpy()[1, 2] == 7
    assert repr(t) == "Tensor[3, 5]"


def test_from_numpy_copies() -> None:
    a = normal(0, 4, 3)
    t = Tensor.from_numpy(a)
    a[:] = 0
    assert t.numpy().any()
    np.testing.assert_array_equal(
        Tensor.from_numpy(normal(0, 4, 6)[:, ::2]).numpy(), normal(0, 4, 6)[:, ::2]
    )


def test_a_view_outlives_its_tensor_and_its_growth() -> None:
    t = Tensor.from_numpy(normal(0, 2, 3))
    view = t.numpy()
    before = view.copy()
    t.resize(1000)
    assert t.numpy().shape == (1000, 3)
    del t
    gc.collect()
    np.testing.assert_array_equal(view, before)


def test_shrinking_keeps_the_memory() -> None:
    t = Tensor(8, 4)
    address = t.numpy().ctypes.data
    t.resize(2)
    t.resize(8)
    assert t.numpy().ctypes.data == address


@pytest.mark.parametrize(("rows", "cols"), [(-1, 3), (3, 0), (2**40, 2**40)])
def test_absurd_shapes_are_refused(rows: int, cols: int) -> None:
    with pytest.raises(ValueError, match="Tensor: rows must be >= 0 and cols >= 1"):
        Tensor(rows, cols)


@pytest.mark.parametrize("n", [0, -1, 1025])
def test_absurd_thread_counts_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"set_num_threads: n must be between 1 and 1024; got {n}"):
        set_num_threads(n)


def test_set_isa_chooses() -> None:
    assert available_isas()[0] == "portable"
    for name in available_isas():
        set_isa(name)
        assert isa() == name


def test_threads_come_and_go() -> None:
    weight = random_weight("int4", False, 64, 2048)
    x, out = Tensor.from_numpy(normal(1, 9, 2048)), Tensor(9, 64)
    matmul(out, x, weight.packed)
    expected = out.numpy().copy()
    for n in (1, 4, 2, 3, 1, 2):
        set_num_threads(n)
        assert num_threads() == n
        matmul(out, x, weight.packed)
        np.testing.assert_array_equal(out.numpy(), expected)


def test_other_work_on_the_cores_changes_no_bit() -> None:
    weight = random_weight("int4", False, 256, 1024)
    x, out = Tensor.from_numpy(normal(1, 4, 1024)), Tensor(4, 256)
    set_num_threads(1)
    matmul(out, x, weight.packed)
    expected = out.numpy().copy()
    set_num_threads(3)  # whose teams now change from product to product
    with ExitStack() as stack:
        for _ in range(4):
            busy = stack.enter_context(subprocess.Popen(["sh", "-c", "while :; do :; done"]))
            stack.callback(busy.kill)
        for _ in range(100):
            matmul(out, x, weight.packed)
            np.testing.assert_array_equal(out.numpy(), expected)


def test_a_worker_keeps_off_the_callers_core() -> None:
    weight = random_weight("int4", False, 256, 1024)
    x, out = Tensor.from_numpy(normal(1, 4, 1024)), Tensor(4, 256)
    set_num_threads(1)
    before = set(os.listdir("/proc/self/task"))
    set_num_threads(2)
    matmul(out, x, weight.packed)  # by now the worker has begun
    (worker,) = (int(task) for task in set(os.listdir("/proc/self/task")) - before)
    allowed = os.sched_getaffinity(0)
    try:
        for core in allowed:
            os.sched_setaffinity(0, {core})
            time.sleep(0.02)  # the worker falls asleep, and is woken elsewhere
            matmul(out, x, weight.packed)
            assert os.sched_getaffinity(worker) == (allowed - {core} or allowed)
    finally:
        os.sched_setaffinity(0, allowed)


def test_ops_from_several_python_threads_take_turns() -> None:
    weight = random_weight("int8", True, 96, 512)
    inputs = [normal(seed, 1 + seed, 512) for seed in range(8)]

    def product(a: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> bytes:
        out = Tensor(1, 96)
        matmul(out, Tensor.from_numpy(a), weight.packed)
        return out.numpy().tobytes()

    alone = [product(a) for a in inputs]
    with ThreadPoolExecutor(4) as executor:
        for _ in range(5):
            assert list(executor.map(product, inputs)) == alone
