"""`POST /v1/chat/completions`: owns a request's life from its body to its last byte."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from cierzo.server import sse
from cierzo.server.answer import Answer, send_answer
from cierzo.server.guardrails import GuardrailCheck
from cierzo.server.metering import admit
from cierzo.server.request_body import read_request
from cierzo.server.schemas.chat import ChatCompletionRequest


async def create_chat_completion(request: Request) -> Response:
    body, headers = await read_request(request, ChatCompletionRequest)
    request_id, metrics = request.state.request_id, request.app.state.metrics
    metered = await admit(request, body.model)
    workspace = metered.caller.workspace_id
    completion = await asyncio.to_thread(metered.model.chat, body, request_id, workspace)
    guardrails = None
    if body.guardrails:
        check = GuardrailCheck(request)
        work = check.run(body.guardrails, body.messages)
        guardrails = await sse.run_until_disconnect(work, request.receive)
    answer = Answer(metered, body.model, completion, metrics, guardrails)
    return await send_answer(request, answer, stream=bool(body.stream), headers=headers)
