"""A request's fields as an upstream of its kind wants them; what the kind lacks is refused.

Hints that change no answer are left out: `metadata`, `user`, `store`, `service_tier`. So are
`guardrails`, which were run here by then.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from cierzo.errors import UnsupportedRequestError
from cierzo.server.chat_text import SAFE_PROMPT
from cierzo.server.schemas.chat import (
    BaseMessage,
    ChatCompletionRequest,
    HostedTool,
    NamedToolChoice,
)
from cierzo.server.schemas.common import known_fields
from cierzo.server.schemas.fim import FimCompletionRequest

Kind = Literal["mistral", "openai", "vllm"]

SHARED = (
    "temperature",
    "top_p",
    "stop",
    "response_format",
    "tools",
    "presence_penalty",
    "frequency_penalty",
    "n",
    "parallel_tool_calls",
    "reasoning_effort",
)
MORE_SAMPLING = ("min_tokens", "repetition_penalty", "top_k")
LOGPROBS = ("logprobs", "top_logprobs", "prompt_logprobs", "top_prompt_logprobs")

FIELDS: dict[Kind, tuple[str, ...]] = {
    "mistral": (
        *SHARED,
        *MORE_SAMPLING,
        *LOGPROBS,
        "tool_choice",
        "prediction",
        "prompt_mode",
        "safe_prompt",
    ),
    "openai": SHARED,
    "vllm": (*SHARED, *MORE_SAMPLING),
}
"""Passed on as they are, by kind of upstream."""

REFUSED = (*MORE_SAMPLING, *LOGPROBS, "prompt_mode")
"""Where a kind does not have them: an answer without them would be another one."""


def chat_fields(
    body: ChatCompletionRequest, kind: Kind, model: str, workspace: str
) -> dict[str, Any]:
    """The body for `/v1/chat/completions`, streamed. Raises UnsupportedRequestError."""
    sent = known_fields(body)
    _refuse(body, kind, sent)
    fields = {name: sent[name] for name in FIELDS[kind] if name in sent}
    max_tokens = body.max_tokens if body.max_tokens is not None else body.max_completion_tokens
    seed = body.random_seed if body.random_seed is not None else body.seed
    fields |= {"model": model, "stream": True}
    if max_tokens is not None:
        fields["max_tokens"] = max_tokens
    if seed is not None:
        fields["random_seed" if kind == "mistral" else "seed"] = seed
    for tool in fields.get("tools", ()):
        tool.setdefault("type", "function")
    if kind == "mistral":
        fields["messages"] = [_mistral_message(message) for message in body.messages]
        if body.prompt_cache_key is not None:
            fields["prompt_cache_key"] = own_cache_key(workspace, body.prompt_cache_key)
        return fields
    messages = [_openai_message(message) for message in body.messages]
    if body.safe_prompt:
        messages.insert(0, {"role": "system", "content": SAFE_PROMPT})
    fields["messages"] = messages
    fields["stream_options"] = {"include_usage": True}
    if isinstance(body.tool_choice, NamedToolChoice):
        fields["tool_choice"] = {"type": "function", **sent["tool_choice"]}
    elif body.tool_choice is not None:
        fields["tool_choice"] = "required" if body.tool_choice == "any" else body.tool_choice
    if "json_schema" in fields.get("response_format", {}):
        fields["response_format"]["json_schema"].setdefault("name", "answer")
    if kind == "vllm":
        fields["cache_salt"] = own_cache_key(workspace)
        # Counts with every chunk, so that an answer broken off has its row's. Of several answers
        # a chunk counts its own only.
        fields["stream_options"]["continuous_usage_stats"] = (body.n or 1) == 1
        if body.prefix:
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
    return fields


def fim_fields(body: FimCompletionRequest, model: str, workspace: str) -> dict[str, Any]:
    """The body for `/v1/fim/completions` of a Mistral-kind upstream, streamed."""
    fields = known_fields(body) | {"model": model, "stream": True}
    fields.pop("metadata", None)
    if body.prompt_cache_key is not None:
        fields["prompt_cache_key"] = own_cache_key(workspace, body.prompt_cache_key)
    return dict(fields)


def _refuse(body: ChatCompletionRequest, kind: Kind, sent: dict[str, Any]) -> None:
    for position, tool in enumerate(body.tools or ()):
        if isinstance(tool, HostedTool):
            raise UnsupportedRequestError(
                f'tools[{position}]: a tool of type "{tool.type}" is not passed on; declare tools '
                'of type "function" and run them yourself',
                param="tools",
            )
    refused = [name for name in REFUSED if sent.get(name) and name not in FIELDS[kind]]
    if body.logit_bias:
        refused.append("logit_bias")
    if body.prefix and kind == "openai":
        refused.append("prefix")
    if refused:
        raise UnsupportedRequestError(
            f"{refused[0]} is not something that {body.model}, which lives on an upstream of kind "
            f"{kind}, can do; leave it out",
            param=refused[0],
        )


def own_cache_key(workspace: str, key: str = "") -> str:
    """No workspace meets another's prompts in the upstream's cache."""
    return hashlib.sha256(f"{workspace}\n{key}".encode()).hexdigest()


def _mistral_message(message: BaseMessage) -> dict[str, Any]:
    fields: dict[str, Any] = known_fields(message)
    if fields["role"] == "developer":
        fields["role"] = "system"
    return fields


def _openai_message(message: BaseMessage) -> dict[str, Any]:
    """Without earlier answers' thinking, which such servers do not take back."""
    fields = _mistral_message(message)
    fields.pop("prefix", None)
    for position, call in enumerate(fields.get("tool_calls", ())):
        call |= {"type": "function", "index": position}
        if not isinstance(call["function"].get("arguments", ""), str):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    content = fields.get("content")
    if isinstance(content, list):
        chunks = [chunk for chunk in content if chunk["type"] != "thinking"]
        is_text = all(chunk["type"] == "text" for chunk in chunks)
        fields["content"] = message.text if is_text else [_openai_chunk(c) for c in chunks]
    elif message.role == "assistant":
        fields.setdefault("content", None)
    return fields


def _openai_chunk(chunk: dict[str, Any]) -> dict[str, Any]:
    if chunk["type"] == "image_url" and isinstance(chunk.get("image_url"), str):
        return {"type": "image_url", "image_url": {"url": chunk["image_url"]}}
    return chunk
