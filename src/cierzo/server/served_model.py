"""A model that the server offers, and the set of them that requests choose from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from cierzo.errors import ModelNotFoundError, SettingError
from cierzo.server.completion import Completion, Usage
from cierzo.server.schemas.chat import ChatCompletionRequest
from cierzo.server.schemas.embeddings import EmbeddingRequest
from cierzo.server.schemas.fim import FimCompletionRequest
from cierzo.server.schemas.models import Capabilities, ModelCard

if TYPE_CHECKING:
    from cierzo.server.judges import Judge
    from cierzo.server.metering import Metered
    from cierzo.server.metrics import Metrics
    from cierzo.server.upstream.statistics import UpstreamStatistics

MAX_SHOWN_CHARS = 100
"""Of a name that is none of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel(ABC):
    """What `/v1/models` says of a model, and what the endpoints ask of it.

    `created` is unix seconds; `max_context_length` is tokens, None where it is not known. With
    an `upstream`, by its name, it is computed there, and this machine's engines are left alone.
    """

    id: str
    created: int
    max_context_length: int | None
    aliases: tuple[str, ...] = ()
    default_temperature: float | None = 0.7
    description: str | None = None
    upstream: str | None = None
    capabilities: Capabilities = field(
        default_factory=lambda: Capabilities(completion_chat=True, function_calling=True)
    )

    def card(self) -> ModelCard:
        return ModelCard(
            id=self.id,
            created=self.created,
            name=self.id,
            description=self.description,
            max_context_length=self.max_context_length,
            aliases=list(self.aliases),
            default_model_temperature=self.default_temperature,
            capabilities=self.capabilities,
        )

    @abstractmethod
    def chat(self, body: ChatCompletionRequest, request_id: str, workspace: str) -> Completion:
        """The answers to a conversation, still to be computed. Blocking: call it off the event
        loop. Raises PromptError, RequestError."""

    @abstractmethod
    def fim(self, body: FimCompletionRequest, request_id: str, workspace: str) -> Completion:
        """What stands between a prompt and a suffix, likewise."""

    @abstractmethod
    async def embed(
        self, body: EmbeddingRequest, metered: Metered, metrics: Metrics
    ) -> tuple[list[Any], Usage]:
        """The vectors as the answer's JSON has them, and what they cost, which is in the ledger
        by then. Raises RequestError, RateLimitError, EngineError."""

    def judge(self, name: str) -> Judge | None:
        """What moderates and classifies under that name, where the model does so by itself."""
        return None

    def upstream_statistics(self) -> UpstreamStatistics | None:
        """Of its upstream, which it may share with other models."""
        return None

    def is_idle(self) -> bool:
        """True while an upstream computes nothing for it."""
        return True

    @abstractmethod
    def is_running(self) -> bool:
        """False once it was stopped, or where what computes it has died."""

    @abstractmethod
    async def stop(self) -> None:
        """Cut off what still runs, which ends with an error. Idempotent."""

    @abstractmethod
    async def close(self) -> None:
        """Stop, and let go of what it holds."""


class ServedModels:
    """The models of one server, found by id or alias. Raises SettingError when two share a name."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = tuple(models)
        self._by_name = _by_name(models)
        self._retired: list[ServedModel] = []

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def replace(self, old: Collection[ServedModel], new: Sequence[ServedModel]) -> None:
        """Offer `new` in place of `old`, which requests that have chosen one may go on with.
        Raises SettingError, and then nothing has changed."""
        stay = [model for model in self._models if all(model is not other for other in old)]
        self._by_name = _by_name([*stay, *new])
        self._models = (*stay, *new)
        self._retired += old

    async def close_retired(self, model: ServedModel) -> None:
        """Let go of one that `replace` took away."""
        self._retired = [other for other in self._retired if other is not model]
        await model.close()

    async def stop(self) -> None:
        """Cut off what still runs. Idempotent."""
        for model in (*self._models, *self._retired):
            await model.stop()

    async def close(self) -> None:
        for model in (*self._models, *self._retired):
            await model.close()

    def upstream_statistics(self) -> dict[str, UpstreamStatistics]:
        """By the upstreams' names."""
        found = ((model.upstream, model.upstream_statistics()) for model in self._models)
        return {name: told for name, told in found if name is not None and told is not None}

    def find(self, name: str) -> ServedModel | None:
        return self._by_name.get(name)

    def get(self, name: str) -> ServedModel:
        """The model by that id or alias. Raises ModelNotFoundError."""
        model = self.find(name)
        if model is None:
            raise ModelNotFoundError(self.unknown(name))
        return model

    def unknown(self, name: str) -> str:
        """What to say about a name that is none of ours."""
        if len(name) > MAX_SHOWN_CHARS:
            name = name[:MAX_SHOWN_CHARS] + "…"
        near = get_close_matches(name, self._by_name, n=1)
        hint = f"did you mean {near[0]}?" if near else "GET /v1/models lists those served here"
        return f"Invalid model: {name}; {hint}"


def _by_name(models: Sequence[ServedModel]) -> dict[str, ServedModel]:
    found: dict[str, ServedModel] = {}
    for model in models:
        for name in (model.id, *model.aliases):
            if found.setdefault(name, model) is not model:
                raise SettingError(
                    f"two models are called {name!r}; give each its own id and aliases"
                )
    return found
