"""`POST /v1/chat/completions`: owns a request's life from its body to its last byte."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from cierzo.server.answer import Answer, send_answer
from cierzo.server.chat_request import prepare_chat
from cierzo.server.metering import admit
from cierzo.server.request_body import read_request
from cierzo.server.schemas.chat import ChatCompletionRequest


async def create_chat_completion(request: Request) -> Response:
    body, headers = await read_request(request, ChatCompletionRequest)
    metered = await admit(request, body.model)
    prepared = await asyncio.to_thread(
        prepare_chat, body, metered.model, request.state.request_id, metered.caller.workspace_id
    )
    answer = Answer(metered, body.model, prepared, request.app.state.metrics)
    return await send_answer(request, answer, stream=bool(body.stream), headers=headers)
