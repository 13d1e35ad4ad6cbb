"""The wire of the four classifier endpoints: texts or conversations in, scores out."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from cierzo.classifiers.moderation import MODERATION_MODELS
from cierzo.server.schemas.chat import Message
from cierzo.server.schemas.common import Items, UsageInfo, WireModel

MAX_INPUTS = 4096

Conversation = Annotated[Items[Message], Field(min_length=1)]


Texts = str | Annotated[Items[str], Field(min_length=1, max_length=MAX_INPUTS)]


class ModerationRequest(WireModel):
    """The body of `/v1/moderations`. Without `model`, as OpenAI's clients send it: the newest
    moderation model. A null field is an absent one."""

    model: str = MODERATION_MODELS[0].name
    input: Texts
    metadata: dict[str, Any] | None = None


class ClassificationRequest(WireModel):
    """The body of `/v1/classifications`. A null field is an absent one."""

    model: str
    input: Texts
    metadata: dict[str, Any] | None = None


class ChatModerationRequest(WireModel):
    """The body of `/v1/chat/moderations`: one conversation or several."""

    model: str
    input: Conversation | Annotated[Items[Conversation], Field(min_length=1, max_length=MAX_INPUTS)]


class ConversationInput(WireModel):
    messages: Conversation


class ChatClassificationRequest(WireModel):
    """The body of `/v1/chat/classifications`."""

    model: str
    input: (
        ConversationInput
        | Annotated[Items[ConversationInput], Field(min_length=1, max_length=MAX_INPUTS)]
    )


class ModerationResult(BaseModel):
    """One text's categories: whether its score reaches the threshold, and the score.

    `flagged`, which OpenAI's clients read: whether any category does.
    """

    flagged: bool

    categories: dict[str, bool]
    category_scores: dict[str, float]


class ModerationResponse(BaseModel):
    id: str
    model: str
    results: list[ModerationResult]
    usage: UsageInfo


class TargetScores(BaseModel):
    scores: dict[str, float]


class ClassificationResponse(BaseModel):
    """Per text: the classifier's name → its labels' probabilities."""

    id: str
    model: str
    results: list[dict[str, TargetScores]]
    usage: UsageInfo
