"""`POST /v1/embeddings`: all texts of a request are one batch in the engine."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from cierzo.server import sse
from cierzo.server.embeddings_request import prepare_embeddings, vector_json
from cierzo.server.error_responses import json_response
from cierzo.server.metering import admit
from cierzo.server.readings import read_prompts
from cierzo.server.request_body import read_request
from cierzo.server.schemas.embeddings import EmbeddingRequest


async def create_embeddings(request: Request) -> Response:
    body, headers = await read_request(request, EmbeddingRequest)
    state, request_id = request.app.state, request.state.request_id
    metered = await admit(request, body.model)
    model = metered.model
    prompts = await asyncio.to_thread(prepare_embeddings, body, model)
    readings, usage = await sse.run_until_disconnect(
        read_prompts(metered, prompts, request_id, state.metrics), request.receive
    )
    data = [
        {"object": "embedding", "embedding": vector_json(reading.hidden, body, model), "index": i}
        for i, reading in enumerate(readings)
        if reading.hidden is not None
    ]
    answer = {
        "id": request_id.replace("-", ""),
        "object": "list",
        "model": body.model,
        "data": data,
        "usage": usage.as_json(),
    }
    return json_response(answer, headers=headers)
