"""A model that the server offers, and the set of them that requests choose from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from cierzo.config import Pooling
from cierzo.errors import ModelNotFoundError, SettingError
from cierzo.server.schemas.models import Capabilities, ModelCard
from cierzo.server.text_model import Engine, TextModel

MAX_SHOWN_CHARS = 100
"""Of a name that is none of ours."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One engine with the text side of its model, and what `/v1/models` says of it.

    `created` is unix seconds; `max_context_length` is tokens. Embeddings have `embedding_dim`
    numbers, made of hidden states by `pooling`.
    """

    id: str
    engine: Engine
    text: TextModel
    created: int
    max_context_length: int
    embedding_dim: int
    pooling: Pooling = "last"
    aliases: tuple[str, ...] = ()
    default_temperature: float = 0.7
    description: str | None = None
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


class ServedModels:
    """The models of one server, found by id or alias. Raises SettingError when two share a name."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = tuple(models)
        self._by_name: dict[str, ServedModel] = {}
        for model in models:
            for name in (model.id, *model.aliases):
                if self._by_name.setdefault(name, model) is not model:
                    raise SettingError(
                        f"two models are called {name!r}; give each its own id and aliases"
                    )

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

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
