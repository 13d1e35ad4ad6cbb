"""Messages and tools to prompt token ids, by the rules of the model at hand.

The one door for the server and the scripts: picks the vendor's format for the vendor's files
and the checkpoint's own template for all others. Knows nothing of generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cierzo.errors import PromptError
from cierzo.tokenizer.messages import Message, Tool, parse_messages, parse_tools
from cierzo.tokenizer.template_prompt import TemplatePrompt
from cierzo.tokenizer.tokenizer import Tokenizer
from cierzo.tokenizer.tool_format import ToolFormat


class _PromptFormat(Protocol):
    @property
    def tool_format(self) -> ToolFormat: ...

    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        *,
        reasoning_effort: str | None,
        prompt_mode: str | None,
        response_format: Mapping[str, Any] | None,
    ) -> list[int]: ...


class ChatPrompt:
    """One model's way of writing conversations. Thread-safe; make one per loaded model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._format = _prompt_format(tokenizer)

    @property
    def tool_format(self) -> ToolFormat:
        """How this model's answers will spell tool calls."""
        return self._format.tool_format if self._format else ToolFormat.NONE

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        reasoning_effort: str | None = None,
        prompt_mode: str | None = None,
        response_format: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Prompt token ids of a conversation in the API's shapes, up to the assistant's turn.

        Consecutive messages of one role are merged, foreign tool-call ids made regular.
        Raises MessageOrderError, ToolCallError, TemplateError, PromptError, or
        UnsupportedRequestError for an option that this model's format does not have.
        """
        if self._format is None:
            raise PromptError(
                "This model has no chat template: it is a base model, which continues text. "
                "Use an instruct model for chat, or send a plain prompt."
            )
        return self._format.encode(
            parse_messages(messages),
            parse_tools(tools),
            reasoning_effort=reasoning_effort,
            prompt_mode=prompt_mode,
            response_format=response_format,
        )

    def close(self) -> None:
        """Frees what the template holds (its process)."""
        if isinstance(self._format, TemplatePrompt):
            self._format.close()


def _prompt_format(tokenizer: Tokenizer) -> _PromptFormat | None:
    # Imported here so that other models do not wait for the vendor's library.
    if tokenizer.version.startswith(("tekken ", "spm ")):
        from cierzo.tokenizer.mistral_prompt import MistralPrompt
        from cierzo.tokenizer.mistral_tokenizer import MistralFileTokenizer

        assert isinstance(tokenizer, MistralFileTokenizer)
        return MistralPrompt(tokenizer)
    if tokenizer.chat_template is None:
        return None
    return TemplatePrompt(tokenizer, tokenizer.chat_template)
