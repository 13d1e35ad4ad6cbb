"""The native ops: float rows times packed weights, attention over the paged KV cache, sampling.

Everything here takes native objects and scalars, releases the GIL, and runs on one pool of
threads with the best instruction set of this machine. Each op has its slow NumPy twin in
`reference`. Knows nothing of layers, models or files.
"""

from cierzo.kernels._native import (
    Tensor,
    available_isas,
    gather_rows,
    isa,
    num_threads,
    set_isa,
    set_num_threads,
)

__all__ = [
    "Tensor",
    "available_isas",
    "gather_rows",
    "isa",
    "num_threads",
    "set_isa",
    "set_num_threads",
]
