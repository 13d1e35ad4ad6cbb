"""Chat prompts in Mistral's formats, v1 to v15, written by Mistral's own library.

Our part is the way in (regular messages to the vendor's objects) and the way out (its
exceptions to our typed errors). Knows no templates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mistral_common import exceptions as vendor_errors
from mistral_common.protocol.instruct import messages as vendor
from mistral_common.protocol.instruct.chunk import TextChunk, ThinkChunk
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall
from mistral_common.protocol.instruct.tool_calls import Tool as VendorTool
from mistral_common.protocol.instruct.tool_calls import ToolCall as VendorToolCall
from mistral_common.tokens.tokenizers.base import TokenizerVersion
from pydantic import ValidationError

from cierzo.errors import (
    MessageOrderError,
    PromptError,
    ToolCallError,
    UnsupportedRequestError,
)
from cierzo.tokenizer.messages import Message, Tool
from cierzo.tokenizer.mistral_tokenizer import MistralFileTokenizer
from cierzo.tokenizer.tool_format import ToolFormat

_TOOL_FORMATS = {
    TokenizerVersion.v1: ToolFormat.NONE,
    TokenizerVersion.v2: ToolFormat.JSON_LIST,
    TokenizerVersion.v3: ToolFormat.JSON_LIST,
    TokenizerVersion.v7: ToolFormat.JSON_LIST,
    TokenizerVersion.v11: ToolFormat.NAME_ID_ARGS,
}

_ERRORS: dict[type[Exception], type[PromptError]] = {
    vendor_errors.InvalidMessageStructureException: MessageOrderError,
    vendor_errors.InvalidFunctionCallException: ToolCallError,
    vendor_errors.InvalidToolException: ToolCallError,
    vendor_errors.InvalidToolSchemaException: ToolCallError,
    vendor_errors.InvalidToolMessageException: ToolCallError,
    vendor_errors.InvalidAssistantMessageException: ToolCallError,
}


class MistralPrompt:
    """One vendor tokenizer, writing conversations in its version's format."""

    def __init__(self, tokenizer: MistralFileTokenizer) -> None:
        self._vendor = tokenizer.vendor
        self.tool_format = _TOOL_FORMATS.get(self._vendor.version, ToolFormat.NAME_ARGS)

    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        *,
        reasoning_effort: str | None,
        prompt_mode: str | None,
        response_format: Mapping[str, Any] | None,
    ) -> list[int]:
        """Prompt token ids, as the vendor's `encode_chat_completion` gives them."""
        version = self._vendor.version
        if prompt_mode is not None:
            raise UnsupportedRequestError(
                f"prompt_mode {prompt_mode!r} is not supported: this release carries no built-in "
                "reasoning prompt. Put the model's own one in a system message.",
                param="prompt_mode",
            )
        if reasoning_effort is not None and not version.supports_model_settings:
            raise UnsupportedRequestError(
                f"reasoning_effort {reasoning_effort!r} needs a model with tokenizer v15 or "
                f"later; this one is {version.value}. Leave it out.",
                param="reasoning_effort",
            )
        if tools and self.tool_format is ToolFormat.NONE:
            raise UnsupportedRequestError(
                f"tools need a model with tokenizer v2 or later; this one is {version.value}. "
                "Use a newer model, such as Mistral 7B v0.3.",
                param="tools",
            )
        fields: dict[str, Any] = {"reasoning_effort": reasoning_effort}
        if response_format is not None and version.supports_model_settings:
            fields["response_format"] = response_format
        try:
            request: ChatCompletionRequest[Any] = ChatCompletionRequest(
                model="",
                messages=[_TO_VENDOR[message.role](message) for message in messages],
                tools=[_vendor_tool(tool) for tool in tools] or None,
                **fields,
            )
            token_ids: list[int] = self._vendor.encode_chat_completion(request).tokens
        except tuple(_ERRORS) as error:
            raise _ERRORS[type(error)](str(error)) from None
        except (vendor_errors.MistralCommonException, ValidationError) as error:
            raise PromptError(f"Tokenizer {version.value} refuses this request: {error}") from None
        except (ValueError, AssertionError, NotImplementedError) as error:
            raise PromptError(f"Tokenizer {version.value} cannot write this: {error}") from None
        return token_ids


def _chunks(message: Message) -> Any:
    """Content as the vendor's types: text stays text, chunks become its chunk objects."""
    if isinstance(message.content, str):
        return message.content
    return [
        TextChunk(text=chunk["text"]) if chunk["type"] == "text" else _think_chunk(chunk)
        for chunk in message.content
    ]


def _think_chunk(chunk: Mapping[str, Any]) -> ThinkChunk:
    """The API's thinking is a list of chunks; the vendor's is their text."""
    thinking = chunk.get("thinking", "")
    if not isinstance(thinking, str):
        thinking = "".join(part.get("text", "") for part in thinking)
    return ThinkChunk(thinking=thinking, closed=chunk.get("closed", True))


def _vendor_assistant(message: Message) -> vendor.AssistantMessage:
    calls = [
        VendorToolCall(
            id=call.id or "null", function=FunctionCall(name=call.name, arguments=call.arguments)
        )
        for call in message.tool_calls
    ]
    return vendor.AssistantMessage(
        content=_chunks(message) or None, tool_calls=calls or None, prefix=message.prefix
    )


_TO_VENDOR: dict[str, Callable[[Message], Any]] = {
    "system": lambda message: vendor.SystemMessage(content=_chunks(message)),
    "user": lambda message: vendor.UserMessage(content=_chunks(message)),
    "assistant": _vendor_assistant,
    "tool": lambda message: vendor.ToolMessage(
        content=_chunks(message), tool_call_id=message.tool_call_id, name=message.name
    ),
}


def _vendor_tool(tool: Tool) -> VendorTool:
    return VendorTool(
        function=Function(
            name=tool.name,
            description=tool.description,
            parameters=dict(tool.parameters),
            strict=tool.strict,
        )
    )
