"""Guardrails of a chat request: its input is moderated before the model sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from cierzo.classifiers.moderation import THRESHOLD
from cierzo.errors import ContextOverflowError, EngineError, GuardrailError, RequestError
from cierzo.server.auth import Caller
from cierzo.server.classifiers import QuestionJudge, ServedClassifiers, Verdicts, judge_texts
from cierzo.server.conversation_text import conversation_text
from cierzo.server.metering import Metering
from cierzo.server.metrics import Metrics
from cierzo.server.schemas.chat import (
    AssistantMessage,
    BaseMessage,
    GuardrailConfig,
    ModerationConfig,
)
from cierzo.store.ledger import UsageRecord

DEFAULT_MODELS = {
    "moderation_llm_v1": "mistral-moderation-2411",
    "moderation_llm_v2": "mistral-moderation-2603",
}

Results = dict[str, dict[str, Any]]


class GuardrailCheck:
    """The guardrails of one request. Each moderation has a row of its own in the ledger."""

    def __init__(self, request: Request) -> None:
        state = request.app.state
        self._classifiers: ServedClassifiers = state.classifiers
        self._metering: Metering = state.metering
        self._metrics: Metrics = state.metrics
        self._caller: Caller = request.state.caller
        self._request_id: str = request.state.request_id
        self._batch_rows: list[UsageRecord] | None = getattr(request.state, "batch_rows", None)
        self._num_moderations = 0

    async def run(
        self, guardrails: Sequence[GuardrailConfig], messages: Sequence[BaseMessage]
    ) -> list[dict[str, Any]]:
        """What each guardrail found, for the answer.

        Raises GuardrailError (403) when one blocks, RequestError for a config that makes no
        sense, CallerError for a caller that may not moderate.
        """
        if isinstance(messages[-1], AssistantMessage) and len(messages) > 1:
            messages = messages[:-1]  # a prefix of the answer is no input
        text = conversation_text(messages)
        return [{"results": await self._run_one(config, text)} for config in guardrails]

    async def _run_one(self, config: GuardrailConfig, text: str) -> Results:
        results: Results = {}
        for kind, default in DEFAULT_MODELS.items():
            moderation: ModerationConfig | None = getattr(config, kind)
            if moderation is None:
                continue
            try:
                found = await self._moderate(moderation, moderation.model_name or default, text)
            except (EngineError, ContextOverflowError) as error:
                if config.block_on_error:
                    failed = {"error": str(error), "action": "block"}
                    raise GuardrailError({**results, kind: failed}) from error
                found = {"error": str(error), "action": "none"}
            results[kind] = found
        if any(found.get("violated") and found["action"] == "block" for found in results.values()):
            raise GuardrailError(results)
        return results

    async def _moderate(self, config: ModerationConfig, name: str, text: str) -> dict[str, Any]:
        workspace_id = self._caller.workspace_id
        judge = await asyncio.to_thread(self._classifiers.own_moderator, name, workspace_id)
        thresholds = {
            category: THRESHOLD if given is None else given
            for category, given in (config.custom_category_thresholds or {}).items()
        }
        for category in thresholds:
            if category not in judge.scorers:
                raise RequestError(
                    f"guardrails: {name} has no category {category!r}; it has "
                    f"{', '.join(judge.scorers)}",
                    param="guardrails",
                )
        if not config.ignore_other_categories:
            thresholds = dict.fromkeys(judge.scorers, THRESHOLD) | thresholds
        if not thresholds:
            raise RequestError(
                "guardrails: ignore_other_categories leaves nothing to check; give "
                "custom_category_thresholds beside it",
                param="guardrails",
            )
        verdicts = await self._judge(judge.only(thresholds), text)
        decisions = {}
        for category, of_labels in verdicts.scores[0].items():
            score, threshold = float(of_labels[0]), thresholds[category]
            violated = score >= threshold
            decisions[category] = {"threshold": threshold, "score": score, "violated": violated}
        return {
            "model_name": name,
            "decisions": decisions,
            "violated": any(decision["violated"] for decision in decisions.values()),
            "action": config.action or "none",
        }

    async def _judge(self, judge: QuestionJudge, text: str) -> Verdicts:
        self._num_moderations += 1
        row_id = f"{self._request_id}:guardrail-{self._num_moderations}"
        metered = await self._metering.open(
            self._caller,
            judge.id,
            row_id,
            "/v1/chat/moderations",
            batch_rows=self._batch_rows,
            answered_by=judge.model,
        )
        try:
            return await judge_texts(judge, [text], metered, self._metrics)
        finally:
            metered.close()
