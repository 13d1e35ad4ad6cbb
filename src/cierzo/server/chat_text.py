"""The text side of one loaded model: its prompt format, its grammars, its tool calls.

Joins the tokenizer's parts for the server. Knows wire requests; nothing of the engine.
"""

from __future__ import annotations

from typing import Any

from cierzo.engine.request import LogitsConstraint
from cierzo.errors import GrammarError
from cierzo.server.schemas.chat import ChatCompletionRequest, NamedToolChoice
from cierzo.server.text_model import PreparedPrompt
from cierzo.tokenizer.chat_prompt import ChatPrompt
from cierzo.tokenizer.grammar import GrammarCompiler
from cierzo.tokenizer.messages import parse_tools
from cierzo.tokenizer.tokenizer import Tokenizer
from cierzo.tokenizer.tool_calls import ToolCallParser
from cierzo.tokenizer.tool_format import ToolFormat

SAFE_PROMPT = (
    "Always assist with care, respect, and truth. Respond with utmost utility yet securely. "
    "Avoid harmful, unethical, prejudiced, or negative content. "
    "Ensure replies promote fairness and positivity."
)
"""What `safe_prompt` puts first: the vendor's published words."""


class ChatText:
    """Thread-safe; one per loaded model. `vocab_size` is the width of the model's logits."""

    def __init__(self, tokenizer: Tokenizer, prompt: ChatPrompt, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self._prompt = prompt
        self._grammars = GrammarCompiler(tokenizer, vocab_size)

    @property
    def can_call_tools(self) -> bool:
        return self._prompt.tool_format is not ToolFormat.NONE

    def prompt(self, request: ChatCompletionRequest) -> PreparedPrompt:
        """The conversation as tokens, the grammar compiled. Raises PromptError, RequestError."""
        tools = [tool.model_dump() for tool in request.tools or ()]
        token_ids = self._prompt.encode(
            _messages(request),
            tools,
            reasoning_effort=request.reasoning_effort,
            prompt_mode=request.prompt_mode,
            response_format=_response_format(request),
        )
        return PreparedPrompt(
            token_ids=tuple(token_ids),
            stop_token_ids=self.tokenizer.eos_ids,
            constraint=self._constraint(request, tools),
            may_call_tools=bool(tools) and request.tool_choice != "none",
        )

    def tool_call_parser(self) -> ToolCallParser:
        return ToolCallParser(self.tokenizer, self._prompt.tool_format)

    def close(self) -> None:
        """Ends the template's process, if there is one."""
        self._prompt.close()

    def _constraint(
        self, request: ChatCompletionRequest, tools: list[dict[str, Any]]
    ) -> LogitsConstraint | None:
        choice = request.tool_choice or "auto"
        constraint = self._grammars.for_chat(
            response_format=_response_format(request),
            tools=parse_tools(tools),
            tool_choice=choice.model_dump() if isinstance(choice, NamedToolChoice) else choice,
            parallel_tool_calls=request.parallel_tool_calls is not False,
            tool_format=self._prompt.tool_format,
        )
        if constraint is not None and (prefix := request.prefix):
            self._accept_prefix(constraint, prefix)
        return constraint

    def _accept_prefix(self, constraint: LogitsConstraint, prefix: str) -> None:
        """The prefix is part of the answer, so the grammar reads it first."""
        try:
            for token_id in self.tokenizer.encode(prefix):
                constraint.accept(token_id)
        except GrammarError:
            raise GrammarError(
                f"the prefix {prefix!r:.80} does not begin an answer that response_format and "
                "tool_choice allow; change the prefix or leave it out",
                param="messages",
            ) from None


def _messages(request: ChatCompletionRequest) -> list[dict[str, Any]]:
    messages = [message.model_dump() for message in request.messages]
    if request.safe_prompt:
        return [{"role": "system", "content": SAFE_PROMPT}, *messages]
    return messages


def _response_format(request: ChatCompletionRequest) -> dict[str, Any] | None:
    wanted = request.response_format
    return None if wanted is None else wanted.model_dump(by_alias=True)
