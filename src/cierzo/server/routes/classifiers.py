"""Moderations and classifications, of texts and of conversations' last messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cierzo.classifiers.moderation import THRESHOLD
from cierzo.server import sse
from cierzo.server.classifiers import Judge, Verdicts, judge_texts
from cierzo.server.conversation_text import conversation_text
from cierzo.server.error_responses import json_response
from cierzo.server.metering import admit
from cierzo.server.request_body import read_request
from cierzo.server.schemas.classifiers import (
    ChatClassificationRequest,
    ChatModerationRequest,
    ClassificationRequest,
    ConversationInput,
    ModerationRequest,
)


async def create_moderation(request: Request) -> Response:
    body, headers = await read_request(request, ModerationRequest)
    return await _moderate(request, body.model, _texts(body.input), headers)


async def create_chat_moderation(request: Request) -> Response:
    body, headers = await read_request(request, ChatModerationRequest)
    conversations = body.input if isinstance(body.input[0], list) else [body.input]
    texts = [conversation_text(messages) for messages in conversations]
    return await _moderate(request, body.model, texts, headers)


async def create_classification(request: Request) -> Response:
    body, headers = await read_request(request, ClassificationRequest)
    return await _classify(request, body.model, _texts(body.input), headers)


async def create_chat_classification(request: Request) -> Response:
    body, headers = await read_request(request, ChatClassificationRequest)
    inputs = [body.input] if isinstance(body.input, ConversationInput) else body.input
    texts = [conversation_text(conversation.messages) for conversation in inputs]
    return await _classify(request, body.model, texts, headers)


def _texts(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


async def _moderate(
    request: Request, name: str, texts: Sequence[str], headers: dict[str, str]
) -> Response:
    verdicts = await _judge(request, request.app.state.classifiers.moderator, name, texts)
    results = []
    for of_text in verdicts.scores:
        scores = {category: float(of_labels[0]) for category, of_labels in of_text.items()}
        categories = {category: score >= THRESHOLD for category, score in scores.items()}
        flagged = any(categories.values())
        results.append({"flagged": flagged, "categories": categories, "category_scores": scores})
    return _answer(request, results, verdicts, headers)


async def _classify(
    request: Request, name: str, texts: Sequence[str], headers: dict[str, str]
) -> Response:
    verdicts = await _judge(request, request.app.state.classifiers.classifier, name, texts)
    results = [
        {
            target: {
                "scores": dict(zip(scorer.question.labels, of_text[target].tolist(), strict=True))
            }
            for target, scorer in verdicts.judge.scorers.items()
        }
        for of_text in verdicts.scores
    ]
    return _answer(request, results, verdicts, headers)


async def _judge(
    request: Request, find: Callable[[str, str], Judge], name: str, texts: Sequence[str]
) -> Verdicts:
    judge = await asyncio.to_thread(find, name, request.state.caller.workspace_id)
    metered = await admit(request, judge.id, judge.model)
    request_id, metrics = request.state.request_id, request.app.state.metrics
    work = judge_texts(judge, texts, metered, request_id, metrics)
    return await sse.run_until_disconnect(work, request.receive)


def _answer(
    request: Request,
    results: Sequence[dict[str, Any]],
    verdicts: Verdicts,
    headers: dict[str, str],
) -> Response:
    answer = {
        "id": request.state.request_id.replace("-", ""),
        "model": verdicts.judge.name,
        "results": results,
        "usage": verdicts.usage.as_json(),
    }
    return json_response(answer, headers=headers)
