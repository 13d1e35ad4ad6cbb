"""What an upstream lists, and the served models that are made of an upstream in the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from cierzo.errors import UpstreamError
from cierzo.server.chat_text import ChatText
from cierzo.server.schemas.models import Capabilities
from cierzo.server.served_model import ServedModel
from cierzo.server.upstream.client import UpstreamClient
from cierzo.server.upstream.fields import Kind
from cierzo.server.upstream.relay_model import RelayModel
from cierzo.server.upstream.token_engine import TokenEngine
from cierzo.server.upstream.tokens_elsewhere import TokensElsewhere
from cierzo.store.upstreams import Upstream, UpstreamModel
from cierzo.tokenizer.chat_prompt import ChatPrompt
from cierzo.tokenizer.fim_prompt import can_fill_in
from cierzo.tokenizer.loading import load_tokenizer
from cierzo.tokenizer.tokenizer import Tokenizer

MODELS_PATH = "/v1/models"

UNTOLD = {"completion_chat": True, "function_calling": True}
"""What is supposed of a model whose server does not say what it can."""


class ListedMeta(BaseModel):
    """llama.cpp's place for the length."""

    n_ctx: int | None = None


class ListedModel(BaseModel):
    """A card of an upstream's `/v1/models`. `max_model_len` is vLLM's name for the length."""

    id: str
    owned_by: str | None = None
    max_context_length: int | None = None
    max_model_len: int | None = None
    meta: ListedMeta | None = None
    capabilities: Capabilities | None = None

    def as_offered(self, name: str) -> UpstreamModel:
        can = None if self.capabilities is None else self.capabilities.model_dump()
        told = None if self.meta is None else self.meta.n_ctx
        length = self.max_context_length or self.max_model_len or told
        return UpstreamModel(name, self.id, length, can)


class ListedModels(BaseModel):
    data: list[ListedModel]

    @property
    def kind(self) -> Kind:
        """Of the server that lists them so."""
        if any(model.capabilities is not None for model in self.data):
            return "mistral"
        is_vllm = any(model.owned_by == "vllm" for model in self.data)
        return "vllm" if is_vllm else "openai"


async def list_models(client: UpstreamClient) -> ListedModels:
    """What the upstream has, asked once. Raises EngineError, RequestError. Closes the client."""
    try:
        answer: Any = await client.get(MODELS_PATH)
        return ListedModels.model_validate(answer)
    except ValidationError:
        raise UpstreamError(
            f"the upstream {client.name} answers {MODELS_PATH} with something else than models; "
            "is the URL right?"
        ) from None
    finally:
        await client.close()


def served_models(upstream: Upstream, key: str | None) -> Iterator[ServedModel]:
    """Its models, ready to be asked; they share one client. Reads the tokenizer, if there is one.

    Raises ModelError for a tokenizer that cannot be read.
    """
    client = UpstreamClient(upstream.name, upstream.url, key)
    for model in upstream.models:
        relay = RelayModel(
            id=model.name,
            created=upstream.created_at_ms // 1000,
            max_context_length=model.max_context_length,
            default_temperature=None,
            description=f"{model.there} on the upstream {upstream.name}",
            upstream=upstream.name,
            client=client,
            kind=cast("Kind", upstream.kind),
            upstream_model=model.there,
            capabilities=Capabilities(**(model.capabilities or UNTOLD)),
        )
        if upstream.tokenizer is None:
            yield relay
        else:
            yield with_tokenizer(relay, load_tokenizer(Path(upstream.tokenizer)))


def with_tokenizer(relay: RelayModel, tokenizer: Tokenizer) -> TokensElsewhere:
    """The same model, its prompts rendered and its answers read here."""
    assert relay.max_context_length is not None, "adding it has made sure of that"
    text = ChatText(tokenizer, ChatPrompt(tokenizer), tokenizer.vocab_size)
    return TokensElsewhere(
        id=relay.id,
        created=relay.created,
        max_context_length=relay.max_context_length,
        description=relay.description,
        upstream=relay.upstream,
        capabilities=Capabilities(
            completion_chat=True,
            function_calling=text.can_call_tools,
            completion_fim=can_fill_in(tokenizer),
        ),
        engine=TokenEngine(relay.client, relay.upstream_model, relay.max_context_length),
        text=text,
        embedding_dim=0,
        relay=relay,
    )
