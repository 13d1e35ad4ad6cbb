"""The native ops: float rows times packed weights, attention over the paged KV cache, sampling.

Everything here takes native objects and scalars, releases the GIL, and runs on one pool of
threads with the best instruction set of this machine. Each op has its slow NumPy twin in
`reference`. Knows nothing of layers, models or files.
"""

from cierzo.kernels._native import (
    ForwardInput,
    KVCache,
    Tensor,
    apply_mask,
    argmax,
    attention,
    available_isas,
    embed,
    gather_rows,
    isa,
    logsumexp,
    num_threads,
    rms_norm,
    rope_and_store,
    sample,
    set_isa,
    set_num_threads,
    top_k,
)

__all__ = [
    "ForwardInput",
    "KVCache",
    "Tensor",
    "apply_mask",
    "argmax",
    "attention",
    "available_isas",
    "embed",
    "gather_rows",
    "isa",
    "logsumexp",
    "num_threads",
    "rms_norm",
    "rope_and_store",
    "sample",
    "set_isa",
    "set_num_threads",
    "top_k",
]
