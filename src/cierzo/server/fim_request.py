"""A fill-in-the-middle request's fields → what the engine is asked and how its answer is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cierzo.engine.request import GenerationRequest, SamplingParams
from cierzo.server.completion import AnswerPlan, PreparedCompletion
from cierzo.server.prompt_size import refuse_endless_text
from cierzo.server.schemas.fim import FimCompletionRequest
from cierzo.tokenizer.fim_prompt import encode_fim, fim_stop_ids

if TYPE_CHECKING:
    from cierzo.server.token_model import TokenModel


def prepare_fim(
    body: FimCompletionRequest, model: TokenModel, request_id: str, workspace: str
) -> PreparedCompletion:
    """Tokenizes: call it off the event loop. Raises RequestError."""
    suffix = body.suffix or ""
    refuse_endless_text([body.prompt, suffix], model.max_context_length, param="prompt")
    tokenizer = model.text.tokenizer
    stop = body.stop or ()
    request = GenerationRequest(
        request_id=request_id,
        workspace=workspace,
        prompt_token_ids=tuple(encode_fim(tokenizer, body.prompt, suffix)),
        params=SamplingParams(
            temperature=(
                model.default_temperature if body.temperature is None else body.temperature
            ),
            top_p=1.0 if body.top_p is None else body.top_p,
            max_tokens=body.max_tokens,
            min_tokens=body.min_tokens or 0,
            seed=body.random_seed,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        ),
        stop_token_ids=fim_stop_ids(tokenizer),
    )
    return PreparedCompletion(
        request, AnswerPlan(tokenizer, goes_on=True, stop=request.params.stop)
    )
