"""A chat request's fields → what the engine is asked and how its answer is read.

Refuses what no model here can do, by field. Knows nothing of HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cierzo.engine.request import GenerationRequest, SamplingParams
from cierzo.errors import ContextOverflowError, UnsupportedRequestError
from cierzo.server.completion import AnswerPlan, PreparedCompletion
from cierzo.server.conversation_text import refuse_unreadable
from cierzo.server.prompt_size import refuse_endless_text
from cierzo.server.schemas.chat import (
    ChatCompletionRequest,
    HostedTool,
)

if TYPE_CHECKING:
    from cierzo.server.token_model import TokenModel


def prepare_chat(
    body: ChatCompletionRequest, model: TokenModel, request_id: str, workspace: str
) -> PreparedCompletion:
    """Templates, tokenizes and compiles grammars: call it off the event loop.

    Raises PromptError, RequestError.
    """
    _refuse_unsupported(body)
    _refuse_endless(body, model.max_context_length)
    prompt = model.text.prompt(body)
    params = sampling_params(body, model.default_temperature)
    request = GenerationRequest(
        request_id=request_id,
        workspace=workspace,
        prompt_token_ids=prompt.token_ids,
        params=params,
        stop_token_ids=prompt.stop_token_ids,
        constraint=prompt.constraint,
    )
    plan = AnswerPlan(
        tokenizer=model.text.tokenizer,
        prefix=body.prefix,
        stop=params.stop,
        make_parser=model.text.tool_call_parser if prompt.may_call_tools else None,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        wants_logprobs=bool(body.logprobs),
        wants_top_logprobs=bool(body.top_logprobs),
        wants_top_prompt_logprobs=bool(body.top_prompt_logprobs),
    )
    return PreparedCompletion(request, plan)


def sampling_params(body: ChatCompletionRequest, default_temperature: float) -> SamplingParams:
    """The sampling fields; null is the default, OpenAI's two names count as ours."""
    max_tokens = body.max_tokens if body.max_tokens is not None else body.max_completion_tokens
    seed = body.random_seed if body.random_seed is not None else body.seed
    stop = body.stop or ()
    return SamplingParams(
        temperature=default_temperature if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        max_tokens=max_tokens,
        min_tokens=body.min_tokens or 0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        seed=seed,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        n=body.n or 1,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=(body.top_prompt_logprobs or 0) if body.prompt_logprobs else None,
    )


def _refuse_endless(body: ChatCompletionRequest, max_context_length: int) -> None:
    """Spare the template and the tokenizer what no number of tokens within the context spells."""
    if len(body.messages) > max_context_length:
        raise ContextOverflowError(
            f"there are {len(body.messages)} messages, too many for a context of "
            f"{max_context_length} tokens, of which each takes at least one; send fewer",
            param="messages",
        )
    texts = (message.text for message in body.messages)
    refuse_endless_text(texts, max_context_length, param="messages")


def _refuse_unsupported(body: ChatCompletionRequest) -> None:
    if body.logit_bias:
        raise UnsupportedRequestError(
            "logit_bias is not supported; response_format and tools hold an answer to a form",
            param="logit_bias",
        )
    for position, tool in enumerate(body.tools or ()):
        if isinstance(tool, HostedTool):
            raise UnsupportedRequestError(
                f'tools[{position}]: a tool of type "{tool.type}" runs on the hosted platform '
                'only; declare tools of type "function" and run them yourself',
                param="tools",
            )
    refuse_unreadable(body.messages)
