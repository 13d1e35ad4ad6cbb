"""Kernel tests leave the machine's settings as they found them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cierzo.kernels import available_isas, isa, num_threads, set_isa, set_num_threads


@pytest.fixture(autouse=True)
def restored_machine() -> Iterator[None]:
    name, threads = isa(), num_threads()
    yield
    set_isa(name)
    set_num_threads(threads)


@pytest.fixture(params=available_isas())
def each_isa(request: pytest.FixtureRequest) -> str:
    """Runs the test once under every instruction set of this machine."""
    name = str(request.param)
    set_isa(name)
    return name
