"""`POST /v1/fim/completions`: code between a prompt and a suffix, answered as chat is."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from cierzo.server.answer import Answer, send_answer
from cierzo.server.metering import admit
from cierzo.server.request_body import read_request
from cierzo.server.schemas.fim import FimCompletionRequest


async def create_fim_completion(request: Request) -> Response:
    body, headers = await read_request(request, FimCompletionRequest)
    metered = await admit(request, body.model)
    request_id, workspace = request.state.request_id, metered.caller.workspace_id
    completion = await asyncio.to_thread(metered.model.fim, body, request_id, workspace)
    answer = Answer(metered, body.model, completion, request.app.state.metrics)
    return await send_answer(request, answer, stream=bool(body.stream), headers=headers)
