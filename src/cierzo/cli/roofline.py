"""What this machine can do at best, measured in a few seconds: bytes read and operations a second.

Reads by working set, so that a model that fits the last cache is held against the cache. Products
by instruction set and unit. Knows nothing of models: `floors.py` says what these rates allow them.
"""

from __future__ import annotations

import json
import math
import platform
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cierzo import kernels
from cierzo.errors import SettingError
from cierzo.machine import allowed_cpus, free_memory_bytes

UNITS = {
    "f32": "f32 multiply-add",
    "int8": "int8 dot product",
    "amx_bf16": "AMX bf16, registers",
    "amx_bf16_l1": "AMX bf16, from L1",
    "amx_int8": "AMX int8, registers",
    "amx_int8_l1": "AMX int8, from L1",
}
"""The kernels' units and what to call them. "from L1" is what a product can reach."""

MEMORY_BYTES = 2 * 2**30
"""A working set that no cache of today holds, but a small machine does."""

_SIZES = (2**20, 16 * 2**20, 64 * 2**20, 128 * 2**20, 256 * 2**20, 512 * 2**20, MEMORY_BYTES)
_READ_S, _MULTIPLY_S = 0.1, 0.04


@dataclass(frozen=True, slots=True)
class ReadRate:
    """Bytes per second that `threads` threads read together from a working set of `nbytes`."""

    threads: int
    nbytes: int
    bytes_s: float


@dataclass(frozen=True, slots=True)
class MultiplyRate:
    """Operations (two per multiply-add) per second of `threads` threads."""

    isa: str
    unit: str
    threads: int
    ops_s: float


@dataclass(frozen=True, slots=True)
class Roofline:
    machine: str
    reads: tuple[ReadRate, ...]
    multiplies: tuple[MultiplyRate, ...]

    def read_bytes_s(self, threads: int, nbytes: int) -> float:
        """The rate for a working set of `nbytes`, between the measured ones by its logarithm.

        >>> reads = (ReadRate(1, 100, 8.0), ReadRate(1, 10000, 4.0))
        >>> Roofline("", reads, ()).read_bytes_s(1, 1000)
        6.0
        """
        points = sorted((r.nbytes, r.bytes_s) for r in self.reads if r.threads == threads)
        if not points:
            raise SettingError(f"the rates were not measured with {threads} threads")
        right = bisect_left([size for size, _ in points], nbytes)
        if right in (0, len(points)):
            return points[min(right, len(points) - 1)][1]
        (low, at_low), (high, at_high) = points[right - 1 : right + 1]
        share = math.log(nbytes / low) / math.log(high / low)
        return at_low + share * (at_high - at_low)

    def ops_s(self, isa: str, unit: str, threads: int) -> float:
        """0 where the instruction set has no such unit."""
        wanted = (isa, unit, threads)
        return next((m.ops_s for m in self.multiplies if (m.isa, m.unit, m.threads) == wanted), 0.0)

    @property
    def most_threads(self) -> int:
        return max(read.threads for read in self.reads)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(values: Any, origin: str) -> Roofline:
        """The inverse of `to_json`; raises SettingError for anything else."""
        try:
            return Roofline(
                str(values["machine"]),
                tuple(ReadRate(**read) for read in values["reads"]),
                tuple(MultiplyRate(**multiply) for multiply in values["multiplies"]),
            )
        except (KeyError, TypeError) as error:
            raise SettingError(
                f"{origin}: holds no rates ({error!r}); make them with "
                "`cierzo bench --roofline --json`"
            ) from error


def read_roofline(path: Path) -> Roofline:
    """Rates that were measured before. Raises SettingError."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingError(f"{path}: cannot be read as rates ({error})") from error
    return Roofline.from_json(values, str(path))


def measure_roofline(
    threads: Iterable[int], isas: Sequence[str], sizes: Sequence[int] = _SIZES
) -> Roofline:
    """Measure now, on these numbers of threads. The process computes as before afterwards."""
    before = kernels.num_threads(), kernels.isa()
    most_bytes = max(free_memory_bytes() // 4, _SIZES[0])
    reads, multiplies = [], []
    try:
        for count in threads:
            kernels.set_num_threads(count)
            for nbytes in sorted({min(max(size, count * 2**20), most_bytes) for size in sizes}):
                reads.append(ReadRate(count, nbytes, kernels.read_rate(nbytes, _READ_S)))
            for isa in isas:
                kernels.set_isa(isa)
                rates = {unit: kernels.multiply_rate(unit, _MULTIPLY_S) for unit in UNITS}
                multiplies += [MultiplyRate(isa, u, count, r) for u, r in rates.items() if r > 0]
            kernels.set_isa(before[1])
    finally:
        kernels.set_num_threads(before[0])
        kernels.set_isa(before[1])
    return Roofline(machine_class(), tuple(reads), tuple(multiplies))


def thread_counts(most: int) -> list[int]:
    """1, 2, 4 and so on, and `most`."""
    return sorted({2**n for n in range(most.bit_length()) if 2**n < most} | {most})


def machine_class() -> str:
    """The processor and how many of its CPUs this machine has, in one line."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {len(allowed_cpus())} CPUs, {kernels.available_isas()[-1]}"
