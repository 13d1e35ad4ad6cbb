"""What native/bindings*.cpp exports."""

import numpy as np
from numpy.typing import NDArray

class Tensor:
    """float32 [rows, cols] in aligned native memory that grows and never shrinks."""

    def __init__(self, rows: int, cols: int) -> None: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    def resize(self, rows: int) -> None: ...
    def numpy(self) -> NDArray[np.float32]: ...
    @staticmethod
    def from_numpy(a: NDArray[np.float32]) -> Tensor: ...

class PackedWeight:
    """A matrix, or a stack of experts, in tile order. Keeps `data` (not copied) alive."""

    def __init__(
        self,
        data: NDArray[np.uint8],
        dtype: str,
        affine: bool,
        n_out: int,
        n_in: int,
        n_experts: int = 1,
    ) -> None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def affine(self) -> bool: ...
    @property
    def n_out(self) -> int: ...
    @property
    def n_in(self) -> int: ...
    @property
    def n_experts(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

# Set-up and loading: arrays in, arrays out.
def pack_quantized(
    values: NDArray[np.uint8],
    scales: NDArray[np.float16],
    minimums: NDArray[np.float16] | None,
    bits: int,
) -> NDArray[np.uint8]: ...
def pack_bf16(w: NDArray[np.float32]) -> NDArray[np.uint8]: ...
def quantize(
    w: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.float16] | None]: ...
def unpack(
    data: NDArray[np.uint8], dtype: str, affine: bool, n_out: int, n_in: int
) -> NDArray[np.float32]: ...
def packed_nbytes(dtype: str, affine: bool, n_out: int, n_in: int) -> int: ...

# RMSNorm of the rows that an op reads, instead of rms_norm() before it.
class RMSNorm:
    def __init__(self, weight: Tensor, eps: float) -> None: ...

# Forward ops: `out` is resized by the op. The first `num_prompt_rows` rows are prompt tokens.
def matmul(
    out: Tensor,
    x: Tensor,
    weight: PackedWeight,
    accumulate: bool = False,
    num_prompt_rows: int = 0,
    norm: RMSNorm | None = None,
) -> None: ...
def matmul_swiglu(
    out: Tensor, x: Tensor, gate_up: PackedWeight, num_prompt_rows: int = 0
) -> None: ...
def feed_forward(
    x: Tensor,
    gate_up: PackedWeight,
    down: PackedWeight,
    num_prompt_rows: int = 0,
    norm: RMSNorm | None = None,
) -> None: ...
def moe(
    x: Tensor,
    h: Tensor,
    router: Tensor,
    gate_up: PackedWeight,
    down: PackedWeight,
    num_experts_per_tok: int,
    expert_counts: Tensor | None = None,
    num_prompt_rows: int = 0,
) -> None: ...
def gather_rows(out: Tensor, x: Tensor, rows: NDArray[np.int32]) -> None: ...

# The machine.
def set_num_threads(n: int) -> None: ...
def num_threads() -> int: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
def set_isa(name: str) -> None: ...
def read_rate(nbytes: int, seconds: float) -> float: ...
def multiply_rate(unit: str, seconds: float) -> float: ...

class KVCache:
    def __init__(
        self,
        n_layers: int,
        num_blocks: int,
        n_kv_heads: int,
        head_dim: int,
        dtype: str = "bf16",
    ) -> None: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def n_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    def copy_block(self, source: int, target: int) -> None: ...
    def read(self, layer: int, block: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...

class ForwardInput:
    def __init__(
        self,
        token_ids: NDArray[np.int32],
        positions: NDArray[np.int32],
        slot_mapping: NDArray[np.int32],
        query_starts: NDArray[np.int32],
        context_lens: NDArray[np.int32],
        block_tables: NDArray[np.int32],
        cos: NDArray[np.float32],
        sin: NDArray[np.float32],
        query_scale: NDArray[np.float32],
        num_prompt_tokens: int = 0,
    ) -> None: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_sequences(self) -> int: ...
    @property
    def num_prompt_tokens(self) -> int: ...

def embed(out: Tensor, inp: ForwardInput, weight: PackedWeight) -> None: ...
def rms_norm(out: Tensor, x: Tensor, weight: Tensor, eps: float) -> None: ...
def rope_and_store(
    q_out: Tensor,
    qkv: Tensor,
    inp: ForwardInput,
    kv_cache: KVCache,
    layer: int,
    n_heads: int,
    interleaved: bool = False,
) -> None: ...
def attention(
    out: Tensor,
    q: Tensor,
    inp: ForwardInput,
    kv_cache: KVCache,
    layer: int,
    sliding_window: int = 0,
) -> None: ...
def attention_layer(
    x: Tensor,
    qkv_proj: PackedWeight,
    o_proj: PackedWeight,
    norm: RMSNorm,
    inp: ForwardInput,
    kv_cache: KVCache,
    layer: int,
    n_heads: int,
    sliding_window: int = 0,
) -> None: ...
def argmax(logits: Tensor) -> NDArray[np.int32]: ...
def logsumexp(logits: Tensor) -> NDArray[np.float32]: ...
def top_k(logits: Tensor, row: int, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
def sample(
    logits: Tensor,
    temperature: NDArray[np.float32],
    top_k: NDArray[np.int32],
    top_p: NDArray[np.float32],
    uniform: NDArray[np.float64],
) -> NDArray[np.int32]: ...
def apply_mask(logits: Tensor, row: int, mask: NDArray[np.uint32]) -> None: ...

# Each method notes the op of the same name, for `run` to execute in order; its prompt rows are the
# step's prompt tokens, and `rows` are those that gather_rows takes. Operands are kept alive.
class Program:
    def __init__(self) -> None: ...
    def run(self, inp: ForwardInput, kv_cache: KVCache, rows: NDArray[np.int32]) -> None: ...
    def embed(self, out: Tensor, weight: PackedWeight) -> None: ...
    def rms_norm(self, out: Tensor, x: Tensor, weight: Tensor, eps: float) -> None: ...
    def attention_layer(
        self,
        x: Tensor,
        qkv_proj: PackedWeight,
        o_proj: PackedWeight,
        norm: RMSNorm,
        layer: int,
        n_heads: int,
        sliding_window: int = 0,
    ) -> None: ...
    def feed_forward(
        self,
        x: Tensor,
        gate_up: PackedWeight,
        down: PackedWeight,
        norm: RMSNorm | None = None,
    ) -> None: ...
    def moe(
        self,
        x: Tensor,
        h: Tensor,
        router: Tensor,
        gate_up: PackedWeight,
        down: PackedWeight,
        num_experts_per_tok: int,
        expert_counts: Tensor | None = None,
    ) -> None: ...
    def gather_rows(self, out: Tensor, x: Tensor) -> None: ...
