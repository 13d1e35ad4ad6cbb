"""A model whose prompts are tokenized here and whose answers come as tokens: an engine and a
text side."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from cierzo.config import Pooling
from cierzo.server.chat_request import prepare_chat
from cierzo.server.completion import Completion, TokenCompletion, Usage
from cierzo.server.embeddings_request import prepare_embeddings, vector_json
from cierzo.server.fim_request import prepare_fim
from cierzo.server.metering import Metered
from cierzo.server.metrics import Metrics
from cierzo.server.readings import read_prompts
from cierzo.server.schemas.chat import ChatCompletionRequest
from cierzo.server.schemas.embeddings import EmbeddingRequest
from cierzo.server.schemas.fim import FimCompletionRequest
from cierzo.server.served_model import ServedModel
from cierzo.server.text_model import Engine, TextModel


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenModel(ServedModel):
    """Embeddings have `embedding_dim` numbers, made of hidden states by `pooling`."""

    engine: Engine
    text: TextModel
    max_context_length: int
    default_temperature: float = 0.7
    embedding_dim: int
    pooling: Pooling = "last"

    def chat(self, body: ChatCompletionRequest, request_id: str, workspace: str) -> Completion:
        return TokenCompletion(self.engine, prepare_chat(body, self, request_id, workspace))

    def fim(self, body: FimCompletionRequest, request_id: str, workspace: str) -> Completion:
        return TokenCompletion(self.engine, prepare_fim(body, self, request_id, workspace))

    async def embed(
        self, body: EmbeddingRequest, metered: Metered, metrics: Metrics
    ) -> tuple[list[Any], Usage]:
        prompts = await asyncio.to_thread(prepare_embeddings, body, self)
        readings, usage = await read_prompts(self.engine, prompts, metered, metrics)
        hidden = (reading.hidden for reading in readings if reading.hidden is not None)
        return [vector_json(row, body) for row in hidden], usage

    def is_running(self) -> bool:
        return self.engine.is_healthy()

    async def stop(self) -> None:
        await asyncio.to_thread(self.engine.close)

    async def close(self) -> None:
        await self.stop()
        self.text.close()
