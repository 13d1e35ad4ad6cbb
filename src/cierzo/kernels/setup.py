"""What the kernels of this process run on: set by commands and by LLM, before anything computes.

Not set where they are imported: a pool of threads made there would not survive a fork.
"""

from __future__ import annotations

from cierzo.errors import SettingError
from cierzo.kernels._native import available_isas, set_isa, set_num_threads
from cierzo.machine import physical_cores

_MAX_THREADS = 1024  # the pool's own bound


def configure_kernels(isa: str | None, threads: int | None) -> None:
    """`isa` None leaves the instruction set as it is; `threads` None is one per physical core.

    Raises SettingError for an instruction set that this processor lacks.
    """
    if isa is not None:
        if isa not in available_isas():
            raise SettingError(
                f"isa is {isa!r}, but this processor has {', '.join(available_isas())}; choose "
                "one of these or leave it unset"
            )
        set_isa(isa)
    set_num_threads(threads or min(physical_cores(), _MAX_THREADS))
