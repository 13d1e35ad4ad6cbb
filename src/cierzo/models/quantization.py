"""What a planned tensor is packed as, and its rows in that form.

Groups that fit are kept bit for bit (widened where a stack needs it); everything else
is dequantised and quantised anew, and the error is measured. Knows nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cierzo import kernels
from cierzo.config import GROUP_SIZE, WeightDtype
from cierzo.errors import ModelFileError
from cierzo.models.model_file import StoredTensor
from cierzo.models.stored_types import Bytes, Float32, Groups, bf16_bits, bf16_floats
from cierzo.models.weight_plan import PlannedTensor

RequestedDtype = Literal["auto", "int4", "int8", "bf16"]

_BITS: dict[WeightDtype, Literal[4, 8]] = {"int4": 4, "int8": 8}
_WIDTH: dict[WeightDtype, int] = {"int4": 4, "int8": 8, "bf16": 16}
_VOCABULARY_TENSORS = ("embedding", "output")


@dataclass(frozen=True, slots=True)
class PackedKind:
    """Weights as the kernels know them: dtype, and whether groups carry a minimum."""

    dtype: WeightDtype
    affine: bool


@dataclass(slots=True)
class ErrorSum:
    """Relative error of packed weights: √(Σ(w' − w)² / Σw²), fed in chunks. 0 if never fed."""

    squared_error: float = 0.0
    squared_weight: float = 0.0

    def add(self, stored: Float32, packed: Float32) -> None:
        difference, weights = (packed - stored).ravel(), stored.ravel()
        self.squared_error += float(difference @ difference)
        self.squared_weight += float(weights @ weights)

    @property
    def relative(self) -> float:
        if self.squared_error == 0.0:
            return 0.0
        return float(np.sqrt(self.squared_error / max(self.squared_weight, 1e-300)))


def packed_kind(planned: PlannedTensor, requested: RequestedDtype) -> PackedKind:
    """The kind for all rows of a tensor: as stored for "auto", widest where stacked rows differ.

    At int4 the embedding and the output matrix get int8, unless stored at int4: they are
    what small models lose most by.
    """
    dtype: WeightDtype
    if requested == "auto":
        dtype = _widest(planned)
    elif requested == "int4" and planned.name in _VOCABULARY_TENSORS:
        dtype = "int4" if _widest(planned) == "int4" else "int8"
    else:
        dtype = requested
    if dtype == "bf16":
        return PackedKind("bf16", False)
    bits = _BITS[dtype]
    return PackedKind(dtype, any(_is_affine(tensor, bits) for tensor in planned.tensors))


def _widest(planned: PlannedTensor) -> WeightDtype:
    return max((t.stored_type.dtype for t in planned.tensors), key=_WIDTH.__getitem__)


def _keeps_groups(tensor: StoredTensor, bits: int) -> bool:
    return tensor.has_groups and _WIDTH[tensor.stored_type.dtype] <= bits


def _is_affine(tensor: StoredTensor, bits: int) -> bool:
    # What `kernels.quantize` makes is affine at 4 bits and symmetric at 8.
    return tensor.stored_type.affine if _keeps_groups(tensor, bits) else bits == 4


def is_exact(planned: PlannedTensor, kind: PackedKind) -> bool:
    """Whether packing as `kind` keeps every weight as stored."""
    if kind.dtype == "bf16":
        return all(tensor.type_name == "BF16" for tensor in planned.tensors)
    bits = _BITS[kind.dtype]
    return all(_keeps_groups(t, bits) and t.stored_type.is_exact for t in planned.tensors)


def float_rows(planned: PlannedTensor, expert: int, start: int, stop: int) -> Float32:
    """float32 [stop − start, n_in] as stored; ModelFileError for a NaN or an infinity."""
    rows = np.empty((stop - start, planned.n_in), np.float32)
    for tensor, first, last, wanted, places in planned.gather(expert, start, stop):
        rows[places] = tensor.float_rows(first, last)[wanted]
    _require_finite(planned.name, rows)
    return rows


def pack_rows(
    planned: PlannedTensor, kind: PackedKind, expert: int, start: int, stop: int, error: ErrorSum
) -> Bytes:
    """Rows start..stop in the kernels' tile order; `start` at a multiple of 16."""
    if kind.dtype == "bf16":
        rows = float_rows(planned, expert, start, stop)
        if not is_exact(planned, kind):
            error.add(rows, bf16_floats(bf16_bits(rows)))
        return kernels.pack_bf16(_padded(rows))
    groups = _group_rows(planned, kind, expert, start, stop)
    _require_finite(planned.name, groups.scales)
    if groups.minimums is not None:
        _require_finite(planned.name, groups.minimums)
    if not is_exact(planned, kind):
        rows = float_rows(planned, expert, start, stop)
        error.add(rows, groups.dequantize()[:, : planned.n_in])
    return kernels.pack_quantized(groups.values, groups.scales, groups.minimums, groups.bits)


def _group_rows(
    planned: PlannedTensor, kind: PackedKind, expert: int, start: int, stop: int
) -> Groups:
    bits = _BITS[kind.dtype]
    n, n_in = stop - start, -(-planned.n_in // GROUP_SIZE) * GROUP_SIZE
    values = np.empty((n, n_in), np.uint8)
    scales = np.empty((n, n_in // GROUP_SIZE), np.float16)
    minimums = np.empty_like(scales) if kind.affine else None
    for tensor, first, last, wanted, places in planned.gather(expert, start, stop):
        groups = _tensor_groups(tensor, first, last, bits).take(wanted)
        if bits == 8:
            groups = groups.as_int8()
        if minimums is not None:
            groups = groups.as_affine()
            minimums[places] = groups.minimums
        values[places], scales[places] = groups.values, groups.scales
    return Groups(values, scales, minimums, bits)


def _tensor_groups(tensor: StoredTensor, start: int, stop: int, bits: Literal[4, 8]) -> Groups:
    if _keeps_groups(tensor, bits):
        return tensor.group_rows(start, stop)
    rows = tensor.float_rows(start, stop)
    _require_finite(tensor.name, rows)
    values, scales, minimums = kernels.quantize(_padded(rows), bits)
    return Groups(values, scales, minimums, bits)


def _padded(rows: Float32) -> Float32:
    """Rows with zeros up to a whole number of groups."""
    missing = -rows.shape[1] % GROUP_SIZE
    return np.pad(rows, ((0, 0), (0, missing))) if missing else np.ascontiguousarray(rows)


def _require_finite(name: str, numbers: NDArray[np.float32] | NDArray[np.float16]) -> None:
    if not np.isfinite(numbers).all():
        raise ModelFileError(
            f"tensor {name}: holds a weight or scale that is not finite, or too large for "
            "float16 scales; the file is damaged, or needs dtype bf16"
        )
