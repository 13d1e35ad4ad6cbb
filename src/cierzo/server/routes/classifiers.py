"""Moderations and classifications, of texts and of conversations' last messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from cierzo.server import sse
from cierzo.server.classifiers import ServedClassifiers
from cierzo.server.completion import Usage
from cierzo.server.conversation_text import conversation_text
from cierzo.server.error_responses import json_response
from cierzo.server.judges import Asked, Judge, Results
from cierzo.server.metering import admit
from cierzo.server.request_body import read_request
from cierzo.server.schemas.classifiers import (
    ChatClassificationRequest,
    ChatModerationRequest,
    ClassificationRequest,
    ConversationInput,
    ModerationRequest,
)
from cierzo.server.schemas.common import known_fields


async def create_moderation(request: Request) -> Response:
    body, headers = await read_request(request, ModerationRequest)
    return await _moderate(request, body, _texts(body.input), headers)


async def create_chat_moderation(request: Request) -> Response:
    body, headers = await read_request(request, ChatModerationRequest)
    conversations = body.input if isinstance(body.input[0], list) else [body.input]
    texts = [conversation_text(messages) for messages in conversations]
    return await _moderate(request, body, texts, headers)


async def create_classification(request: Request) -> Response:
    body, headers = await read_request(request, ClassificationRequest)
    return await _classify(request, body, _texts(body.input), headers)


async def create_chat_classification(request: Request) -> Response:
    body, headers = await read_request(request, ChatClassificationRequest)
    inputs = [body.input] if isinstance(body.input, ConversationInput) else body.input
    texts = [conversation_text(conversation.messages) for conversation in inputs]
    return await _classify(request, body, texts, headers)


Body = ModerationRequest | ClassificationRequest | ChatModerationRequest | ChatClassificationRequest


def _texts(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


async def _moderate(
    request: Request, body: Body, texts: Sequence[str], headers: dict[str, str]
) -> Response:
    classifiers: ServedClassifiers = request.app.state.classifiers
    judge = await asyncio.to_thread(classifiers.moderator, body.model, _workspace(request))
    metered = await admit(request, judge.id, judge.model)
    work = judge.moderate(_asked(request, body, texts), metered, request.app.state.metrics)
    return _answer(request, judge, *await sse.run_until_disconnect(work, request.receive), headers)


async def _classify(
    request: Request, body: Body, texts: Sequence[str], headers: dict[str, str]
) -> Response:
    classifiers: ServedClassifiers = request.app.state.classifiers
    judge = await asyncio.to_thread(classifiers.classifier, body.model, _workspace(request))
    metered = await admit(request, judge.id, judge.model)
    work = judge.classify(_asked(request, body, texts), metered, request.app.state.metrics)
    return _answer(request, judge, *await sse.run_until_disconnect(work, request.receive), headers)


def _workspace(request: Request) -> str:
    workspace_id: str = request.state.caller.workspace_id
    return workspace_id


def _asked(request: Request, body: Body, texts: Sequence[str]) -> Asked:
    return Asked(texts, request.scope["route"].path, known_fields(body)["input"])


def _answer(
    request: Request, judge: Judge, results: Results, usage: Usage, headers: dict[str, str]
) -> Response:
    answer = {
        "id": request.state.request_id.replace("-", ""),
        "model": judge.name,
        "results": results,
        "usage": usage.as_json(),
    }
    return json_response(answer, headers=headers)
