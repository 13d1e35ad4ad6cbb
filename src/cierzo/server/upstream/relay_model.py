"""A model whose requests are passed on as they are: its upstream renders, tokenizes and parses."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError, computed_field

from cierzo.errors import (
    EngineError,
    UnsupportedRequestError,
    UpstreamError,
)
from cierzo.server.completion import ChoiceDelta, Completion, Usage
from cierzo.server.embeddings_request import as_sent, check_dimension, vector_json
from cierzo.server.judges import Asked, Results
from cierzo.server.metering import Metered
from cierzo.server.metrics import Metrics
from cierzo.server.schemas.chat import ChatCompletionRequest
from cierzo.server.schemas.classifiers import TargetScores
from cierzo.server.schemas.embeddings import EmbeddingRequest
from cierzo.server.schemas.fim import FimCompletionRequest
from cierzo.server.served_model import ServedModel
from cierzo.server.upstream.chunks import ChunkReader, UpstreamUsage
from cierzo.server.upstream.client import UpstreamClient
from cierzo.server.upstream.fields import Kind, chat_fields, fim_fields
from cierzo.server.upstream.statistics import UpstreamStatistics

CHAT_PATH, FIM_PATH, EMBEDDINGS_PATH = (
    "/v1/chat/completions",
    "/v1/fim/completions",
    "/v1/embeddings",
)


class Vector(BaseModel):
    embedding: list[float]
    index: int


class WithUsage(BaseModel):
    usage: UpstreamUsage | None = None


class EmbeddingsAnswer(WithUsage):
    data: list[Vector]


class Categories(BaseModel):
    """Of one text. Whether any holds is not among what the hosted API says."""

    categories: dict[str, bool]
    category_scores: dict[str, float]

    @computed_field
    def flagged(self) -> bool:
        return any(self.categories.values())


class ModerationAnswer(WithUsage):
    results: list[Categories]


class ClassificationAnswer(WithUsage):
    results: list[dict[str, TargetScores]]


Answer = TypeVar("Answer", bound=WithUsage)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Exchanged(Generic[Answer, Result]):
    """One request to an endpoint that answers whole, and what is made of its answer."""

    path: str
    fields: dict[str, Any]
    schema: type[Answer]
    read: Callable[[Answer], Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayModel(ServedModel):
    """`upstream_model` is what it is called there."""

    client: UpstreamClient
    kind: Kind
    upstream_model: str

    def chat(self, body: ChatCompletionRequest, request_id: str, workspace: str) -> Completion:
        fields = chat_fields(body, self.kind, self.upstream_model, workspace)
        prefix = body.prefix if self.kind == "vllm" else ""  # which leaves it out of its answer
        return RelayCompletion(self.client, CHAT_PATH, fields, body.n or 1, prefix)

    def fim(self, body: FimCompletionRequest, request_id: str, workspace: str) -> Completion:
        if self.kind != "mistral":
            raise UnsupportedRequestError(
                f"{body.model} cannot fill in the middle: its upstream {self.client.name} is of "
                f"kind {self.kind}, which needs kind vllm and a tokenizer for that",
                param="model",
            )
        fields = fim_fields(body, self.upstream_model, workspace)
        return RelayCompletion(self.client, FIM_PATH, fields, 1)

    async def embed(
        self, body: EmbeddingRequest, metered: Metered, metrics: Metrics
    ) -> tuple[list[Any], Usage]:
        texts = body.input if isinstance(body.input, list) else [body.input]
        num_texts = 1 if isinstance(texts[0], int) else len(texts)
        fields: dict[str, Any] = {"model": self.upstream_model, "input": body.input}
        if self.kind == "mistral":
            wanted = body.output_dimension or body.dimensions
            more = {"output_dimension": wanted, "output_dtype": body.output_dtype}
            fields |= {name: value for name, value in more.items() if value is not None}
        else:
            fields["encoding_format"] = "float"

        def vectors_of(answer: EmbeddingsAnswer) -> list[Any]:
            vectors = [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]
            self._check_count(len(vectors), num_texts)
            if self.kind == "mistral":
                return [as_sent(vector, body) for vector in vectors]
            for vector in vectors:
                check_dimension(body, len(vector))
            return [vector_json(np.array(vector, np.float32), body) for vector in vectors]

        exchange = Exchanged(EMBEDDINGS_PATH, fields, EmbeddingsAnswer, vectors_of)
        return await self._ask(exchange, metered, metrics)

    def _check_count(self, num_answers: int, num_texts: int) -> None:
        if num_answers != num_texts:
            raise UpstreamError(
                f"the upstream {self.client.name} sent {num_answers} results for {num_texts} texts"
            )

    def judge(self, name: str) -> RelayJudge | None:
        can = self.capabilities
        return RelayJudge(name, self) if can.moderation or can.classification else None

    def is_running(self) -> bool:
        return self.client.is_running

    def is_idle(self) -> bool:
        return self.client.is_idle

    def upstream_statistics(self) -> UpstreamStatistics:
        return self.client.statistics

    async def stop(self) -> None:
        await self.client.stop()

    async def close(self) -> None:
        await self.client.close()

    async def _ask(
        self, exchanged: Exchanged[Answer, Result], metered: Metered, metrics: Metrics
    ) -> tuple[Result, Usage]:
        """What an endpoint that answers whole has answered, and its cost, which is in the ledger
        by then."""
        usage = Usage(0, is_known=False)
        metered.begin(usage, 0)
        reason = "aborted"
        try:
            metered.start()
            with metered.unless_refused():
                value = await self.client.post(exchanged.path, exchanged.fields)
            answer = self._checked(value, exchanged.schema)
            usage.note_time()
            if answer.usage is not None:
                answer.usage.write_to(usage)
            result = exchanged.read(answer)  # before the row: what is refused here is not charged
            await metered.settle()
            reason = "stop"
            return result, usage
        except EngineError:
            reason = "error"
            raise
        finally:
            if metered.has_computed:
                metrics.record(self.id, usage, [reason])

    def _checked(self, value: Any, schema: type[Answer]) -> Answer:
        try:
            return schema.model_validate(value)
        except ValidationError as error:
            place = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
            raise UpstreamError(
                f"the upstream {self.client.name} sent what is no answer (at {place})"
            ) from None


class RelayCompletion:
    """A `Completion` that an upstream streams."""

    def __init__(
        self, client: UpstreamClient, path: str, fields: dict[str, Any], n: int, prefix: str = ""
    ) -> None:
        self.n = n
        self.usage = Usage(0, is_known=False)
        self._client, self._path, self._fields = client, path, fields
        self._reader = ChunkReader(client.name, n, self.usage, prefix)

    async def deltas(self, metered: Metered) -> AsyncGenerator[list[ChoiceDelta], None]:
        metered.start()
        exchange = self._client.stream(self._path, self._fields)
        try:
            async for chunk in exchange:
                if deltas := list(self._reader.read(chunk)):
                    yield deltas
            if deltas := list(self._reader.finish()):
                yield deltas
        finally:
            exchange.close()


@dataclass(frozen=True, slots=True)
class RelayJudge:
    """A `Judge` that lives on an upstream and reads the request itself."""

    name: str
    model: RelayModel

    @property
    def id(self) -> str:
        return self.model.id

    async def moderate(
        self, asked: Asked, metered: Metered, metrics: Metrics
    ) -> tuple[Results, Usage]:
        return await self._judge(asked, ModerationAnswer, metered, metrics)

    async def classify(
        self, asked: Asked, metered: Metered, metrics: Metrics
    ) -> tuple[Results, Usage]:
        return await self._judge(asked, ClassificationAnswer, metered, metrics)

    async def _judge(
        self,
        asked: Asked,
        schema: type[ModerationAnswer] | type[ClassificationAnswer],
        metered: Metered,
        metrics: Metrics,
    ) -> tuple[Results, Usage]:
        fields = {"model": self.model.upstream_model, "input": asked.input}

        def results_of(answer: ModerationAnswer | ClassificationAnswer) -> Results:
            self.model._check_count(len(answer.results), len(asked.texts))
            results: Results = answer.model_dump()["results"]
            return results

        exchange = Exchanged(asked.path, fields, schema, results_of)
        return await self.model._ask(exchange, metered, metrics)
