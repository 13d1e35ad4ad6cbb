"""`POST /v1/fim/completions`: code between a prompt and a suffix, answered as chat is."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from cierzo.server.answer import Answer, send_answer
from cierzo.server.fim_request import prepare_fim
from cierzo.server.request_body import read_request
from cierzo.server.schemas.fim import FimCompletionRequest
from cierzo.server.served_model import ServedModel


async def create_fim_completion(request: Request) -> Response:
    body, headers = await read_request(request, FimCompletionRequest)
    state = request.app.state
    model: ServedModel = state.models.get(body.model)
    prepared = await asyncio.to_thread(prepare_fim, body, model, request.state.request_id)
    answer = Answer(model, body.model, prepared, state.metrics)
    return await send_answer(request, answer, stream=bool(body.stream), headers=headers)
