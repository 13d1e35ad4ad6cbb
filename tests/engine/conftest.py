from __future__ import annotations

from collections.abc import Iterator

import pytest

from cierzo import kernels


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this tiny are not worth waking a second thread for, least of all on a busy machine."""
    before = kernels.num_threads()
    kernels.set_num_threads(1)
    yield
    kernels.set_num_threads(before)
