"""Which rows of which stored tensors make each tensor of the packed model.

q, k and v become `qkv_proj` (q and k rows put in half-split order), gate and up become
`gate_up_proj` in alternating panels of 16 rows, experts become stacks. Every shape is
checked here against the config. Reads nothing; knows no file format and no tile order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cierzo.config import ModelConfig
from cierzo.errors import ModelFileError
from cierzo.models.model_file import StoredTensor

Order = NDArray[np.int64]
PANEL_ROWS = 16


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows start..stop of a stored tensor whose leading axes are flattened."""

    tensor: StoredTensor
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor of the packed model: [n_out, n_in], or that for each of several experts.

    An expert's rows are its pieces' rows one after another, then `order` (None: as
    they are): row i of the result is row `order[i]` of those. `is_float` marks norms
    and routers, which stay float32.
    """

    name: str
    n_out: int
    n_in: int
    experts: tuple[tuple[Piece, ...], ...]
    order: Order | None = None
    is_float: bool = False

    @property
    def tensors(self) -> list[StoredTensor]:
        """The stored tensors it is made of, each once."""
        found = {id(p.tensor): p.tensor for pieces in self.experts for p in pieces}
        return list(found.values())

    def gather(
        self, expert: int, start: int, stop: int
    ) -> list[tuple[StoredTensor, int, int, Order, Order]]:
        """How to make rows start..stop of an expert: a list of
        (tensor, first row, last row + 1, rows wanted of those, their places in the result).
        """
        wanted = np.arange(start, stop) if self.order is None else self.order[start:stop]
        steps, base = [], 0
        for piece in self.experts[expert]:
            size = piece.stop - piece.start
            places = np.flatnonzero((wanted >= base) & (wanted < base + size))
            if len(places):
                rows = wanted[places] - base + piece.start
                first = int(rows.min())
                steps.append((piece.tensor, first, int(rows.max()) + 1, rows - first, places))
            base += size
        return steps


def plan_weights(
    config: ModelConfig,
    tensors: Mapping[str, StoredTensor],
    origin: str,
    *,
    has_interleaved_rope: bool,
) -> list[PlannedTensor]:
    """The packed model's tensors in file order, from tensors by our names.

    Raises ModelFileError for tensors that are missing, of a wrong shape, or left over.
    """
    return _Planner(config, tensors, origin, has_interleaved_rope).plan()


def half_split_order(n_heads: int, head_dim: int) -> Order:
    """Where to find each half-split row among interleaved ones.

    >>> half_split_order(1, 6).tolist()
    [0, 2, 4, 1, 3, 5]
    """
    rows = np.arange(n_heads * head_dim).reshape(n_heads, head_dim // 2, 2)
    return rows.swapaxes(1, 2).reshape(-1)


def gate_up_order(hidden_dim: int) -> Order:
    """Alternating panels: 16 rows of gate, the same 16 of up (which follow all of gate)."""
    rows = np.arange(2 * hidden_dim).reshape(2, hidden_dim // PANEL_ROWS, PANEL_ROWS)
    return rows.swapaxes(0, 1).reshape(-1)


class _Planner:
    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, StoredTensor],
        origin: str,
        has_interleaved_rope: bool,
    ) -> None:
        self._config = config
        self._tensors = tensors
        self._origin = origin
        self._used: set[str] = set()
        self._qkv_order = self._rope_order() if has_interleaved_rope else None
        self._gate_up_order = gate_up_order(config.hidden_dim)

    def plan(self) -> list[PlannedTensor]:
        c = self._config
        planned = [self._matrix("embedding", "embedding", c.vocab_size, c.dim)]
        for layer in range(c.n_layers):
            planned += self._layer(f"layers.{layer}.")
        planned.append(self._floats("norm", (c.dim,)))
        if c.tied_embeddings:
            self._used.add("output")  # a copy of the embedding that some files keep
        else:
            planned.append(self._matrix("output", "output", c.vocab_size, c.dim))
        left_over = sorted(self._tensors.keys() - self._used)
        if left_over:
            shown = ", ".join(self._tensors[name].name for name in left_over[:4])
            raise ModelFileError(
                f"{self._origin}: {len(left_over)} tensors that a model of this configuration "
                f"does not have ({shown}); the configuration is not this file's"
            )
        return planned

    def _layer(self, prefix: str) -> list[PlannedTensor]:
        c = self._config
        q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        qkv = tuple(
            self._piece(prefix + name, (n_out, c.dim))
            for name, n_out in (("q_proj", q_dim), ("k_proj", kv_dim), ("v_proj", kv_dim))
        )
        planned = [
            self._floats(prefix + "attention_norm", (c.dim,)),
            PlannedTensor(prefix + "qkv_proj", q_dim + 2 * kv_dim, c.dim, (qkv,), self._qkv_order),
            self._matrix(prefix + "o_proj", prefix + "o_proj", c.dim, q_dim),
            self._floats(prefix + "feed_forward_norm", (c.dim,)),
        ]
        if c.moe is None:
            experts_prefix = prefix
            gate_up: tuple[tuple[Piece, ...], ...] = (
                tuple(
                    self._piece(prefix + name, (c.hidden_dim, c.dim))
                    for name in ("gate_proj", "up_proj")
                ),
            )
            down: tuple[tuple[Piece, ...], ...] = (
                (self._piece(prefix + "down_proj", (c.dim, c.hidden_dim)),),
            )
        else:
            experts_prefix = prefix + "experts."
            planned.append(self._floats(prefix + "router", (c.moe.num_experts, c.dim)))
            gate_up = self._expert_gate_up(experts_prefix, c.moe.num_experts)
            down = self._experts(experts_prefix, "down_proj", c.moe.num_experts, c.dim)
        gate_up_name, down_name = experts_prefix + "gate_up_proj", experts_prefix + "down_proj"
        planned += [
            PlannedTensor(gate_up_name, 2 * c.hidden_dim, c.dim, gate_up, self._gate_up_order),
            PlannedTensor(down_name, c.dim, c.hidden_dim, down),
        ]
        return planned

    def _expert_gate_up(self, prefix: str, num_experts: int) -> tuple[tuple[Piece, ...], ...]:
        hidden_dim = self._config.hidden_dim
        if prefix + "gate_up_proj" in self._tensors:
            return self._experts(prefix, "gate_up_proj", num_experts, 2 * hidden_dim)
        gates = self._experts(prefix, "gate_proj", num_experts, hidden_dim)
        ups = self._experts(prefix, "up_proj", num_experts, hidden_dim)
        return tuple(gate + up for gate, up in zip(gates, ups, strict=True))

    def _experts(
        self, prefix: str, role: str, num_experts: int, n_out: int
    ) -> tuple[tuple[Piece, ...], ...]:
        """One piece per expert, from a stack of all or from one tensor each."""
        c = self._config
        n_in = c.hidden_dim if role == "down_proj" else c.dim
        if prefix + role in self._tensors:
            stack = self._take(prefix + role, (num_experts, n_out, n_in))
            return tuple((Piece(stack, e * n_out, (e + 1) * n_out),) for e in range(num_experts))
        return tuple(
            (self._piece(f"{prefix}{e}.{role}", (n_out, n_in)),) for e in range(num_experts)
        )

    def _matrix(self, name: str, source: str, n_out: int, n_in: int) -> PlannedTensor:
        return PlannedTensor(name, n_out, n_in, ((self._piece(source, (n_out, n_in)),),))

    def _floats(self, name: str, shape: tuple[int, ...]) -> PlannedTensor:
        n_rows = int(np.prod(shape[:-1]))
        piece = Piece(self._take(name, shape), 0, n_rows)
        return PlannedTensor(name, n_rows, shape[-1], ((piece,),), is_float=True)

    def _piece(self, name: str, shape: tuple[int, int]) -> Piece:
        return Piece(self._take(name, shape), 0, shape[0])

    def _take(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ModelFileError(
                f"{self._origin}: tensor {name} is missing; the file is incomplete or its "
                "configuration is another model's"
            )
        if tensor.shape != shape:
            raise ModelFileError(
                f"{self._origin}: tensor {tensor.name} has shape {list(tensor.shape)}, "
                f"the configuration needs {list(shape)}"
            )
        self._used.add(name)
        return tensor

    def _rope_order(self) -> Order:
        c = self._config
        q_dim, kv_dim = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        return np.concatenate(
            [
                half_split_order(c.n_heads, c.head_dim),
                q_dim + half_split_order(c.n_kv_heads, c.head_dim),
                q_dim + kv_dim + np.arange(kv_dim),
            ]
        )
