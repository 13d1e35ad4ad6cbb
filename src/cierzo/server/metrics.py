"""What the server counts, under the names that the field's dashboards look for.

One registry per app, no globals. The engines' own numbers are read when scraped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from cierzo.server.completion import Usage
from cierzo.server.text_model import Engine
from cierzo.server.upstream.statistics import UpstreamMetrics, UpstreamStatistics

LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)

# (field of the engine's stats, kind, name, help)
ENGINE_METRICS: tuple[
    tuple[str, type[GaugeMetricFamily] | type[CounterMetricFamily], str, str], ...
] = (
    ("num_running", GaugeMetricFamily, "num_requests_running", "Sequences being computed"),
    ("num_waiting", GaugeMetricFamily, "num_requests_waiting", "Sequences queued"),
    ("kv_cache_usage", GaugeMetricFamily, "kv_cache_usage_ratio", "Share of KV blocks in use"),
    ("num_preempted", CounterMetricFamily, "num_preemptions", "Sequences put back for lack of KV"),
    (
        "num_draft_tokens",
        CounterMetricFamily,
        "spec_decode_num_draft_tokens",
        "Tokens guessed ahead and computed",
    ),
    (
        "num_accepted_tokens",
        CounterMetricFamily,
        "spec_decode_num_accepted_tokens",
        "Of these, tokens that were right",
    ),
    ("num_steps", CounterMetricFamily, "engine_steps", "Steps of the engine"),
    ("total_step_s", CounterMetricFamily, "engine_step_seconds", "Time spent in steps"),
    ("num_computed_tokens", CounterMetricFamily, "computed_tokens", "Positions computed in steps"),
)


class Metrics:
    """All of one server's metrics; its engines by their models' ids, what is known of upstreams
    now by their names."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        upstreams: Callable[[], Mapping[str, UpstreamStatistics]],
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineMetrics(engines))
        self.registry.register(UpstreamMetrics(upstreams))
        self.http_requests = Counter(
            "cierzo_http_requests",
            "HTTP requests answered",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of finished requests")
        self.cached_tokens = self._counter(
            "cached_prompt_tokens", "Prompt tokens reused from the prefix cache"
        )
        self.completion_tokens = self._counter("generation_tokens", "Completion tokens generated")
        self.finished = Counter(
            "cierzo_request_finished",
            "Choices that ended, by finish reason; aborted: the client left",
            ("model", "finish_reason"),
            registry=self.registry,
        )
        self.ttft_s = self._histogram(
            "time_to_first_token_seconds", "Request to first token", LATENCY_BUCKETS_S
        )
        self.tpot_s = self._histogram(
            "time_per_output_token_seconds",
            "Mean time between a request's tokens",
            TOKEN_LATENCY_BUCKETS_S,
        )
        self.e2e_s = self._histogram(
            "e2e_request_latency_seconds", "Request to last token", LATENCY_BUCKETS_S
        )

    def record(self, model_id: str, usage: Usage, finish_reasons: Sequence[str]) -> None:
        """One finished or aborted request."""
        self.prompt_tokens.labels(model_id).inc(usage.num_prompt_tokens)
        self.cached_tokens.labels(model_id).inc(usage.num_cached_tokens)
        self.completion_tokens.labels(model_id).inc(usage.num_completion_tokens)
        for reason in finish_reasons:
            self.finished.labels(model_id, reason).inc()
        self.e2e_s.labels(model_id).observe(time.monotonic() - usage.started_s)
        if usage.first_token_s is None or usage.last_token_s is None:
            return
        self.ttft_s.labels(model_id).observe(usage.first_token_s - usage.started_s)
        if usage.num_completion_tokens > 1:
            decode_s = usage.last_token_s - usage.first_token_s
            self.tpot_s.labels(model_id).observe(decode_s / (usage.num_completion_tokens - 1))

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"cierzo_{name}", text, ("model",), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"cierzo_{name}", text, ("model",), buckets=buckets, registry=self.registry
        )


class _EngineMetrics(Collector):
    """The engines' own numbers at the moment of the scrape."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        stats = [(model_id, engine.stats()) for model_id, engine in self._engines.items()]
        for field, kind, name, text in ENGINE_METRICS:
            family = kind(f"cierzo_{name}", text, labels=["model"])
            for model_id, of_model in stats:
                family.add_metric([model_id], float(getattr(of_model, field)))
            yield family
        experts = CounterMetricFamily(
            "cierzo_expert_tokens",
            "Tokens that each expert of a sparse model worked on",
            labels=["model", "layer", "expert"],
        )
        for model_id, of_model in stats:
            for layer, tokens in enumerate(of_model.expert_tokens):
                for expert, count in enumerate(tokens):
                    experts.add_metric([model_id, str(layer), str(expert)], count)
        yield experts
