"""Token ids in, token events out: batching, paged KV blocks, prefix reuse, sampling.

Knows nothing of text, JSON, keys or money.
"""

from cierzo.engine.engine import Engine
from cierzo.engine.readout import Reading, Readout
from cierzo.engine.request import (
    FinishReason,
    GenerationRequest,
    LogitsConstraint,
    SamplingParams,
    TokenEvent,
    TokenLogprob,
)
from cierzo.engine.stream import TokenStream

__all__ = [
    "Engine",
    "FinishReason",
    "GenerationRequest",
    "LogitsConstraint",
    "Reading",
    "Readout",
    "SamplingParams",
    "TokenEvent",
    "TokenLogprob",
    "TokenStream",
]
