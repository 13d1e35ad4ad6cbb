"""The wire of `/v1/models`: cards, their list, and what a model can do."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer


class Capabilities(BaseModel):
    """What a model may be asked for."""

    completion_chat: bool = False
    function_calling: bool = False
    reasoning: bool = False
    completion_fim: bool = False
    fine_tuning: bool = False
    vision: bool = False
    ocr: bool = False
    classification: bool = False
    moderation: bool = False
    audio: bool = False
    audio_transcription: bool = False


class ModelCard(BaseModel):
    """One model as `GET /v1/models` shows it. `created` is unix seconds, lengths are tokens; a
    length that is not known is left out, where clients expect a number or nothing."""

    id: str
    object: Literal["model"] = "model"
    type: Literal["base"] = "base"
    created: int
    owned_by: str = "cierzo"
    name: str | None = None
    description: str | None = None
    max_context_length: int | None = None
    aliases: list[str] = []
    deprecation: str | None = None
    default_model_temperature: float | None = None
    capabilities: Capabilities

    @model_serializer(mode="wrap")
    def _without_unknown_length(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        if self.max_context_length is None:
            del fields["max_context_length"]
        return fields


class ModelList(BaseModel):
    """The answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
