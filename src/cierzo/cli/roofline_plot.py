"""Draws a roofline: what the machine allows at each ratio of arithmetic to memory traffic, and
where runs landed under it. Needs matplotlib (`cierzo[bench]`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cierzo.cli.roofline import MEMORY_BYTES, UNITS, Roofline
from cierzo.errors import SettingError

CACHE_BYTES = 64 * 2**20
"""A working set that the last cache holds, where there is one of that size."""

# Okabe and Ito's colours, told apart by every kind of eye; engines differ in shape as well.
_STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#56B4E9", "v"))
_GREY = "#555555"


@dataclass(frozen=True, slots=True)
class PlotPoint:
    """One run: `work` says what was done, `engine` who did it."""

    work: str
    engine: str
    ops_per_byte: float
    ops_s: float


def points_of(result: dict[str, Any], engine: str = "Cierzo") -> list[PlotPoint]:
    """The runs in what `cierzo bench --json` prints."""
    points = []
    for row in result["batches"]:
        many = "" if row["batch"] == 1 else f" × {row['batch']}"
        for phase in ("prefill", "decode"):
            name = f"{phase} {row['prompt']}" if phase == "prefill" else phase
            at = row[phase]
            points.append(PlotPoint(name + many, engine, at["ops_per_byte"], at["ops_s"]))
    return points


def draw(path: Path, machine: Roofline, points: Sequence[PlotPoint], threads: int) -> None:
    """Write the picture; its kind by the file's ending. Raises SettingError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise SettingError(
            "--plot needs matplotlib, which is not installed: pip install 'cierzo[bench]'"
        ) from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 7), dpi=110)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = _span([p.ops_per_byte for p in points])
    axes.set_xlim(low, high)
    _draw_roofs(axes, machine, threads, low, high)
    _draw_points(axes, points)
    axes.set_xlabel("operations per byte that must be read")
    axes.set_ylabel("operations per second (two per multiply-add)")
    axes.set_title(f"{machine.machine}, {_count(threads)}", loc="left", fontsize=11)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _label_rates(axes)
    if points:
        axes.legend(loc="lower right", frameon=True, framealpha=0.95)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _count(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _span(intensities: Sequence[float]) -> tuple[float, float]:
    """From well under the first run, and one operation a byte, to well past the last."""
    return min([0.5, *(x / 2 for x in intensities)]), max([4000.0, *(x * 8 for x in intensities)])


def _draw_roofs(axes: Any, machine: Roofline, threads: int, low: float, high: float) -> None:
    """Two slopes, memory's and the last cache's, and a ceiling for each unit."""
    isa = list(dict.fromkeys(m.isa for m in machine.multiplies))[-1]
    shown = [unit for unit in UNITS if unit not in ("amx_int8", "amx_bf16")]
    ceilings = {unit: machine.ops_s(isa, unit, threads) for unit in shown}
    ceilings = {unit: rate for unit, rate in ceilings.items() if rate > 0}
    memory = machine.read_bytes_s(threads, MEMORY_BYTES)
    cache = machine.read_bytes_s(threads, CACHE_BYTES)
    top = max(ceilings.values())
    for rate, style, name in ((memory, "-", "memory"), (cache, (0, (4, 2)), "last cache")):
        if name != "memory" and cache < 1.1 * memory:
            continue
        axes.plot([low, top / rate], [low * rate, top], color=_GREY, linewidth=1.4, linestyle=style)
        _along_slope(axes, low * 1.15, rate, f"{name}, {rate / 1e9:.0f} GB/s", name == "memory")
    for unit, rate in ceilings.items():
        axes.plot([rate / cache, high], [rate, rate], color=_GREY, linewidth=1.0)
        axes.annotate(
            f"{UNITS[unit]}, {_rate(rate)}",
            (high, rate),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            color=_GREY,
            fontsize=9,
        )
    axes.set_ylim(low * memory, top * 2.5)


def _along_slope(axes: Any, x: float, rate: float, text: str, below: bool) -> None:
    axes.annotate(
        text,
        (x, x * rate),
        xytext=(6, -6) if below else (-2, 6),
        textcoords="offset points",
        rotation=45,
        rotation_mode="anchor",
        transform_rotates_text=True,
        va="top" if below else "bottom",
        color=_GREY,
        fontsize=9,
    )


def _draw_points(axes: Any, points: Sequence[PlotPoint]) -> None:
    """Runs of the same work stand over each other, joined, the work's name beside the highest."""
    engines = list(dict.fromkeys(p.engine for p in points))
    for engine, (colour, marker) in zip(engines, _STYLES, strict=False):
        own = [p for p in points if p.engine == engine]
        axes.plot(
            [p.ops_per_byte for p in own],
            [p.ops_s for p in own],
            linestyle="none",
            marker=marker,
            markersize=8,
            markeredgecolor="white",
            color=colour,
            label=engine,
            zorder=3,
        )
    tops = []
    for work in dict.fromkeys(p.work for p in points):
        same = [p for p in points if p.work == work]
        best = max(same, key=lambda p: p.ops_s)
        rates = [p.ops_s for p in same]
        x = best.ops_per_byte
        axes.plot([x, x], [min(rates), max(rates)], color="#aaaaaa", linewidth=0.8, zorder=2)
        tops.append(best)
    _label_apart(axes, tops)


def _label_apart(axes: Any, points: Iterable[PlotPoint]) -> None:
    """Names to the right of their points, raised where they would lie on each other."""
    height, width = 13.0, 6.2  # points per line and per letter of the font
    placed: list[tuple[float, float, float]] = []  # x, right end, y
    scale = 72 / axes.figure.dpi
    for point in sorted(points, key=lambda p: p.ops_s):
        x, y = axes.transData.transform((point.ops_per_byte, point.ops_s)) * scale
        left, right, level = x + 9, x + 9 + width * len(point.work), y - 4
        while any(
            left < end and right > start and abs(level - at) < height for start, end, at in placed
        ):
            level += 2
        placed.append((left, right, level))
        is_moved = level > y
        axes.annotate(
            point.work,
            (point.ops_per_byte, point.ops_s),
            xytext=(left - x, level - y),
            textcoords="offset points",
            fontsize=9,
            bbox={"boxstyle": "square,pad=0.1", "color": "white", "alpha": 0.8},
            arrowprops={"arrowstyle": "-", "color": "#aaaaaa", "lw": 0.6} if is_moved else None,
        )


def _label_rates(axes: Any) -> None:
    axes.yaxis.set_major_formatter(lambda value, position: _rate(value))
    axes.xaxis.set_major_formatter(lambda value, position: f"{value:g}")


def _rate(ops_s: float) -> str:
    """`497 GOPS`, `4.98 TOPS`."""
    return f"{ops_s / 1e12:.3g} TOPS" if ops_s >= 1e12 else f"{ops_s / 1e9:.3g} GOPS"
