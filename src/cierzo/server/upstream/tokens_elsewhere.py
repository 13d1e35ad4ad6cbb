"""A model on a vLLM server whose tokenizer is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cierzo.server.completion import Usage
from cierzo.server.metering import Metered
from cierzo.server.metrics import Metrics
from cierzo.server.schemas.embeddings import EmbeddingRequest
from cierzo.server.token_model import TokenModel
from cierzo.server.upstream.relay_model import RelayModel
from cierzo.server.upstream.statistics import UpstreamStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensElsewhere(TokenModel):
    """Its engine is the upstream's. `relay` is the same model for what is not generated."""

    relay: RelayModel

    async def embed(
        self, body: EmbeddingRequest, metered: Metered, metrics: Metrics
    ) -> tuple[list[Any], Usage]:
        return await self.relay.embed(body, metered, metrics)

    def is_idle(self) -> bool:
        return self.relay.is_idle()

    def upstream_statistics(self) -> UpstreamStatistics:
        return self.relay.upstream_statistics()

    async def stop(self) -> None:
        await self.relay.stop()

    async def close(self) -> None:
        await self.relay.close()
        self.text.close()
