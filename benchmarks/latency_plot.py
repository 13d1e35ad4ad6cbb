"""Draws what `benchmarks.server` measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.clients import Row

COLOURS = ("#0072b2", "#d55e00", "#009e73")


def plot(rows: Sequence[Row], path: Path) -> None:
    """p50 and p99 of both latencies of chats over the number of clients."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    chats = [row for row in rows if row.work == "chat" and row.ttft_ms[0] > 0]
    servers = list(dict.fromkeys(row.server for row in chats))
    counts = sorted({row.clients for row in chats})
    for axis, field, title in zip(
        axes, ("ttft_ms", "tpot_ms"), ("time to first token", "time per output token"), strict=True
    ):
        for server, colour in zip(servers, COLOURS, strict=False):
            of = [row for row in chats if row.server == server]
            clients = [row.clients for row in of]
            values = [getattr(row, field) for row in of]
            axis.plot(clients, [v[0] for v in values], "o-", color=colour, label=f"{server}, p50")
            axis.plot(clients, [v[2] for v in values], "s:", color=colour, label=f"{server}, p99")
        axis.set(xscale="log", yscale="log", xlabel="streaming clients", ylabel="ms", title=title)
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)
