"""Random sizes, arrays and native objects for the fuzzer's calls, and ways of spoiling them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cierzo import kernels
from cierzo.kernels import PackedWeight, Tensor
from tests.fuzz.mutations import FLOATS, Mutator

BLOCK = 16
FORMATS = (("int4", False), ("int4", True), ("int8", False), ("int8", True), ("bf16", False))


class Draw:
    """Random sizes, arrays and native objects."""

    def __init__(self, mutator: Mutator) -> None:
        self.mutator = mutator
        self.rng = mutator.rng
        self.arrays = np.random.default_rng(self.rng.getrandbits(64))

    def of(self, *values: Any) -> Any:
        return self.rng.choice(values)

    def rows(self) -> int:
        return int(self.of(0, 1, 1, 2, 3, 5, 16, 17, 40))

    def width(self) -> int:
        return int(self.of(1, 2, 15, 16, 17, 31, 32, 33, 64, 96, 100))

    def floats(self, *shape: int) -> NDArray[np.float32]:
        """Normal numbers, and in every third array some that are not."""
        array = self.arrays.standard_normal(shape, dtype=np.float32)
        if array.size and self.mutator.chance(0.33):
            odd = np.array([np.nan, np.inf, -np.inf, 1e38, -1e38, 1e-42, 0.0], np.float32)
            places = self.arrays.integers(0, array.size, self.of(1, 3, array.size))
            array.reshape(-1)[places] = self.arrays.choice(odd, len(places))
        return array

    def bytes_(self, *shape: int) -> NDArray[np.uint8]:
        return self.arrays.integers(0, 256, shape, dtype=np.uint8)

    def halves(self, *shape: int) -> NDArray[np.float16]:
        return self.bytes_(*shape[:-1], 2 * shape[-1]).view(np.float16)

    def ids(self, high: int, *shape: int) -> NDArray[np.int32]:
        return self.arrays.integers(0, max(high, 1), shape, dtype=np.int32)

    def tensor(self, rows: int, cols: int) -> Tensor:
        """Sometimes one whose capacity is larger than it shows, or whose rows grew."""
        tensor = Tensor.from_numpy(self.floats(rows, cols))
        if self.mutator.chance(0.3):
            tensor.resize(rows + self.of(1, 50))
            tensor.resize(rows)
        return tensor

    def packed(self, n_out: int, n_in: int, n_experts: int = 1) -> PackedWeight:
        """Any bytes are weights."""
        dtype, affine = self.of(*FORMATS)
        nbytes = n_experts * kernels.packed_nbytes(dtype, affine, n_out, n_in)
        return PackedWeight(self.bytes_(nbytes), dtype, affine, n_out, n_in, n_experts)

    def step_arrays(self, num_blocks: int, head_dim: int, vocab: int) -> dict[str, Any]:
        """A sound `ForwardInput`'s arrays; sequences own blocks of a cache of `num_blocks`."""
        free = list(self.arrays.permutation(num_blocks))
        queries, contexts, tables = [], [], []
        for _ in range(self.of(0, 1, 1, 2, 3)):
            num_queries, past = int(self.of(0, 1, 1, 2, 17)), int(self.of(0, 1, 15, 40))
            blocks = -(-(num_queries + past) // BLOCK)
            if blocks > len(free):
                break
            queries.append(num_queries)
            contexts.append(num_queries + past)
            tables.append([free.pop() for _ in range(blocks)])
        num_tokens, width = sum(queries), max(map(len, tables), default=0) + self.of(0, 1)
        block_tables = np.full((len(tables), width), -1, np.int32)
        positions, slots = [], []
        for row, (table, num_queries, context) in enumerate(
            zip(tables, queries, contexts, strict=True)
        ):
            block_tables[row, : len(table)] = table
            for position in range(context - num_queries, context):
                positions.append(position)
                slots.append(table[position // BLOCK] * BLOCK + position % BLOCK)
        return {
            "token_ids": self.ids(vocab, num_tokens),
            "positions": np.array(positions, np.int32),
            "slot_mapping": np.array(slots, np.int32),
            "query_starts": np.cumsum([0, *queries], dtype=np.int32),
            "context_lens": np.array(contexts, np.int32),
            "block_tables": block_tables,
            "cos": self.floats(num_tokens, head_dim // 2),
            "sin": self.floats(num_tokens, head_dim // 2),
            "query_scale": self.floats(num_tokens),
            "num_prompt_tokens": self.of(0, sum(queries[: len(queries) // 2]), num_tokens),
        }

    def spoiled(self, value: Any) -> Any:
        """Something else in the place of `value`: near it, of another type, or absurd."""
        if isinstance(value, bool):
            return self.of(not value, None, 2, "yes")
        if isinstance(value, int):
            return self.of(self.mutator.number(value), self.mutator.number(value), 1.5, None, "1")
        if isinstance(value, float):
            return self.of(*FLOATS, float("nan"), -value, None, "1")
        if isinstance(value, str):
            return self.of(self.mutator.text(value), None, 3, "int4", "bf16")
        if isinstance(value, Tensor):
            other = self.tensor(self.rows(), self.width())
            return self.of(other, self.tensor(value.rows + 1, value.cols), None, value.numpy())
        if isinstance(value, PackedWeight):
            return self.of(self.packed(self.width(), self.width(), self.of(1, 2)), None, b"x")
        if isinstance(value, np.ndarray):
            return self._spoiled_array(value)
        return self.of(None, 1, "x", value)

    def _spoiled_array(self, value: NDArray[Any]) -> Any:
        choices: tuple[Callable[[NDArray[Any]], Any], ...] = (
            lambda a: a.astype(self.of(np.float64, np.int64, np.uint8, np.int32, np.float16)),
            lambda a: np.repeat(a, 2, axis=0)[::2],
            lambda a: np.asfortranarray(a),
            lambda a: a[..., ::-1],
            lambda a: a.astype(a.dtype.newbyteorder(">")),
            lambda a: a[:0],
            lambda a: a[:-1],
            lambda a: a[..., :-1],
            lambda a: np.concatenate([a, a]),
            lambda a: a.reshape(-1),
            lambda a: a[None],
            lambda a: np.empty((0, 2**40), a.dtype),
            lambda a: np.lib.stride_tricks.as_strided(a, (2**20, *a.shape), (0, *a.strides)),
            _unaligned,
            _read_only,
            lambda a: a.tolist(),
            lambda a: None,
        )
        if value.size and np.issubdtype(value.dtype, np.integer) and self.mutator.chance(0.6):
            spoiled = value.copy()
            number = self.mutator.number(int(spoiled.reshape(-1)[0]))
            place = self.rng.randrange(value.size)
            bits = 8 * spoiled.itemsize
            spoiled.reshape(-1)[place] = np.array([number % 2**bits], f"u{bits // 8}").view(
                spoiled.dtype
            )[0]
            return spoiled
        return self.rng.choice(choices)(value)


def _unaligned(a: NDArray[Any]) -> NDArray[Any]:
    raw = np.zeros(a.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(a.tobytes(), np.uint8)
    return raw[1:].view(a.dtype).reshape(a.shape)


def _read_only(a: NDArray[Any]) -> NDArray[Any]:
    a = a.copy()
    a.flags.writeable = False
    return a
