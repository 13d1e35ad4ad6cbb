"""What one upstream's client has seen, and how `/metrics` tells it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cierzo.server.upstream.breaker import CircuitBreaker
from cierzo.server.upstream.failures import Failure

BUCKETS_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class UpstreamStatistics:
    """Totals since the client was made. One event loop writes them."""

    def __init__(self, breaker: CircuitBreaker) -> None:
        self.num_open = 0
        self.outcomes: Counter[str] = Counter()
        self.answered_s = 0.0
        self._breaker = breaker
        self._answered = [0] * (len(BUCKETS_S) + 1)

    @property
    def is_circuit_open(self) -> bool:
        return self._breaker.is_open

    @contextmanager
    def measured(self) -> Iterator[None]:
        """One attempt at a request; within it is "left" what nobody waits for any more."""
        started_s = time.monotonic()
        outcome = "left"
        self.num_open += 1
        try:
            yield
            outcome = "ok"
            duration_s = time.monotonic() - started_s
            self.answered_s += duration_s
            self._answered[bisect_left(BUCKETS_S, duration_s)] += 1
        except Failure as failure:
            outcome = failure.outcome
            raise
        finally:
            self.num_open -= 1
            self.outcomes[outcome] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """How many answers took up to so many seconds, as Prometheus has it."""
        bounds = [*map(str, BUCKETS_S), "+Inf"]
        totals = [sum(self._answered[: at + 1]) for at in range(len(bounds))]
        return [(bound, float(total)) for bound, total in zip(bounds, totals, strict=True)]


class UpstreamMetrics(Collector):
    """The upstreams' numbers at the moment of the scrape, by the upstreams' names."""

    def __init__(self, upstreams: Callable[[], Mapping[str, UpstreamStatistics]]) -> None:
        self._upstreams = upstreams

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "cierzo_upstream_requests",
            "Requests to an upstream, each attempt, by what became of it",
            labels=["upstream", "outcome"],
        )
        running = GaugeMetricFamily(
            "cierzo_upstream_requests_running",
            "Requests that an upstream is answering",
            labels=["upstream"],
        )
        circuit = GaugeMetricFamily(
            "cierzo_upstream_circuit_open",
            "1 since an upstream failed time and again, until it has answered well",
            labels=["upstream"],
        )
        durations = HistogramMetricFamily(
            "cierzo_upstream_request_duration_seconds",
            "Request to the answer's end, of what an upstream answered",
            labels=["upstream"],
        )
        for name, statistics in self._upstreams().items():
            for outcome, count in sorted(statistics.outcomes.items()):
                requests.add_metric([name, outcome], count)
            running.add_metric([name], statistics.num_open)
            circuit.add_metric([name], float(statistics.is_circuit_open))
            durations.add_metric([name], statistics.buckets(), statistics.answered_s)
        yield from (requests, running, circuit, durations)
