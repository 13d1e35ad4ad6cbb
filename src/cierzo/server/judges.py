"""What the classifier endpoints ask, and who answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cierzo.server.completion import Usage

if TYPE_CHECKING:
    from cierzo.server.metering import Metered
    from cierzo.server.metrics import Metrics
    from cierzo.server.served_model import ServedModel

Results = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Asked:
    """The texts to judge; and the endpoint's path with its `input` as it was sent, for a judge
    that reads conversations itself."""

    texts: Sequence[str]
    path: str
    input: Any


class Judge(Protocol):
    """Scores texts. `name` is what the request called it, `id` what the ledger does.

    The results are the answer's, one per text, and their cost is in the ledger by then. Raises
    RequestError, RateLimitError, EngineError.
    """

    @property
    def name(self) -> str: ...

    @property
    def id(self) -> str: ...

    @property
    def model(self) -> ServedModel: ...

    async def moderate(
        self, asked: Asked, metered: Metered, metrics: Metrics
    ) -> tuple[Results, Usage]:
        """By categories: whether each holds, and its score."""

    async def classify(
        self, asked: Asked, metered: Metered, metrics: Metrics
    ) -> tuple[Results, Usage]:
        """By labels: the probability of each."""
