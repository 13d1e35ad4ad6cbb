"""`POST /v1/embeddings`: all texts of a request are one batch in the engine."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from cierzo.server import sse
from cierzo.server.error_responses import json_response
from cierzo.server.metering import admit
from cierzo.server.request_body import read_request
from cierzo.server.schemas.embeddings import EmbeddingRequest


async def create_embeddings(request: Request) -> Response:
    body, headers = await read_request(request, EmbeddingRequest)
    metered = await admit(request, body.model)
    work = metered.model.embed(body, metered, request.app.state.metrics)
    vectors, usage = await sse.run_until_disconnect(work, request.receive)
    data = [
        {"object": "embedding", "embedding": vector, "index": index}
        for index, vector in enumerate(vectors)
    ]
    answer = {
        "id": metered.request_id.replace("-", ""),
        "object": "list",
        "model": body.model,
        "data": data,
        "usage": usage.as_json(),
    }
    return json_response(answer, headers=headers)
