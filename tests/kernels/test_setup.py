"""The instruction set and the threads of the process, as settings ask for them."""

from __future__ import annotations

import pytest

from cierzo.errors import SettingError
from cierzo.kernels import isa, num_threads, set_num_threads
from cierzo.kernels.setup import configure_kernels
from cierzo.machine import physical_cores


def test_unset_is_one_thread_per_core_and_the_instruction_set_as_it_is() -> None:
    before = isa()
    set_num_threads(physical_cores() + 1)
    configure_kernels(None, None)
    assert (isa(), num_threads()) == (before, physical_cores())


def test_what_is_asked_for_is_set() -> None:
    configure_kernels("portable", 3)
    assert (isa(), num_threads()) == ("portable", 3)


def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingError, match="isa is 'sse9', but this processor has .*portable"):
        configure_kernels("sse9", None)
