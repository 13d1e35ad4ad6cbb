"""The native ops: float rows times packed weights, attention over the paged KV cache, sampling.

Everything here takes native objects and scalars, releases the GIL, and runs on one pool of
threads with the best instruction set of this machine. Each op has its slow NumPy twin in
`reference`. Knows nothing of layers, models or files.
"""

from cierzo.kernels._native import (
    PackedWeight,
    Tensor,
    available_isas,
    gather_rows,
    isa,
    matmul,
    matmul_swiglu,
    moe,
    num_threads,
    pack_bf16,
    pack_quantized,
    packed_nbytes,
    quantize,
    set_isa,
    set_num_threads,
    unpack,
)

__all__ = [
    "PackedWeight",
    "Tensor",
    "available_isas",
    "gather_rows",
    "isa",
    "matmul",
    "matmul_swiglu",
    "moe",
    "num_threads",
    "pack_bf16",
    "pack_quantized",
    "packed_nbytes",
    "quantize",
    "set_isa",
    "set_num_threads",
    "unpack",
]
