"""`GET /health`, which means it, and `GET /metrics` for Prometheus."""

from __future__ import annotations

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from cierzo.server.error_responses import json_response
from cierzo.server.health_probe import HealthProbe
from cierzo.server.metrics import Metrics


async def health(request: Request) -> Response:
    """200 while every engine here lives and takes its steps, else 503 naming those that do not."""
    probes: dict[str, HealthProbe] = request.app.state.health_probes
    states = {name: probe.is_healthy() for name, probe in probes.items()}
    is_healthy = all(states.values())
    body = {
        "status": "ok" if is_healthy else "unhealthy",
        "models": {name: "ok" if state else "stuck" for name, state in states.items()},
    }
    return json_response(body, 200 if is_healthy else 503)


async def metrics(request: Request) -> Response:
    """Counters and histograms in Prometheus' text format."""
    collected: Metrics = request.app.state.metrics
    return Response(collected.render(), media_type=CONTENT_TYPE_LATEST)
