"""Kernel tests choose instruction sets and thread counts; none of it outlives a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cierzo import kernels


@pytest.fixture(autouse=True)
def restored_machine() -> Iterator[None]:
    isa, num_threads = kernels.isa(), kernels.num_threads()
    yield
    kernels.set_isa(isa)
    kernels.set_num_threads(num_threads)
