"""Wire-shaped messages and tools, made regular: leniencies applied, vendor's rules checked.

Knows the shapes of the HTTP API; knows no tokenizer and no template.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, cast

from cierzo.errors import MessageOrderError, PromptError, ToolCallError

Role = Literal["system", "user", "assistant", "tool"]

MERGE_SEPARATOR = "\n\n"
"""Between two messages of one role that become one (the vendor's choice)."""

_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CALL_ID = re.compile(r"[a-zA-Z0-9]{9}")
_ALPHANUMERICS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_MAY_FOLLOW: dict[Role, frozenset[str]] = {
    "system": frozenset(("user", "assistant", "system")),
    "user": frozenset(("assistant", "system", "user")),
    "assistant": frozenset(("assistant", "user", "tool")),
    "tool": frozenset(("assistant", "tool", "user")),
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call: `arguments` is JSON text, `id` nine alphanumerics."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `content` is text, or chunks ({"type": "text" | "thinking", …})."""

    role: Role
    content: str | tuple[Mapping[str, Any], ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    prefix: bool = False

    @property
    def text(self) -> str:
        """The content as one text, its chunks parted like messages; thinking is left out."""
        if isinstance(self.content, str):
            return self.content
        texts = [chunk["text"] for chunk in self.content if chunk["type"] == "text"]
        return MERGE_SEPARATOR.join(text for text in texts if text)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False

    def to_wire(self) -> dict[str, Any]:
        """The shape that templates and prompts print."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}


def parse_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Messages made regular, in order. Raises MessageOrderError, ToolCallError, PromptError."""
    parsed = [_message(message, index) for index, message in enumerate(messages)]
    _check_order(parsed)
    return parsed


def parse_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[Tool]:
    """The functions offered. Raises ToolCallError for one that is malformed or named twice."""
    parsed = [_tool(tool) for tool in tools or ()]
    names = [tool.name for tool in parsed]
    for name in names:
        if names.count(name) > 1:
            raise ToolCallError(f"Two tools are named {name}; give each its own name.")
    return parsed


def merge_same_role(messages: Sequence[Message]) -> list[Message]:
    """Neighbouring system, user or assistant messages become one, texts parted by a blank line."""
    merged: list[Message] = []
    for role, neighbours in groupby(messages, key=lambda message: message.role):
        run = list(neighbours)
        if role != "tool" and len(run) > 1:
            texts = [text for message in run if (text := message.text)]
            calls = tuple(call for message in run for call in message.tool_calls)
            run = [replace(run[-1], content=MERGE_SEPARATOR.join(texts), tool_calls=calls)]
        merged += run
    return merged


def nine_alphanumerics(call_id: str) -> str:
    """`call_id` as the vendor's formats want it: kept if it fits, else a digest of it."""
    if _CALL_ID.fullmatch(call_id):
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode()).digest())
    digits = []
    for _ in range(9):
        number, digit = divmod(number, len(_ALPHANUMERICS))
        digits.append(_ALPHANUMERICS[digit])
    return "".join(digits)


def _message(message: Mapping[str, Any], index: int) -> Message:
    role = cast("Role", message.get("role"))
    if message.get("role") == "developer":  # OpenAI's newer name for the same thing
        role = "system"
    if role not in _MAY_FOLLOW:
        raise PromptError(
            f"messages[{index}].role must be one of {', '.join(_MAY_FOLLOW)}, not {role!r}."
        )
    content = _content(message.get("content"), f"messages[{index}].content")
    if role == "assistant":
        calls = message.get("tool_calls") or ()
        prefix = bool(message.get("prefix"))
        if not content and not calls and not prefix:
            raise PromptError(
                f"messages[{index}]: an assistant message must have content or tool_calls."
            )
        return Message(role, content, tuple(_tool_call(call) for call in calls), prefix=prefix)
    if role == "tool":
        name = message.get("name")
        if name is not None:
            _check_function_name(name)
        return Message(role, content, tool_call_id=_call_id(message.get("tool_call_id")), name=name)
    return Message(role, content)


def _content(content: Any, where: str) -> str | tuple[Mapping[str, Any], ...]:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise PromptError(f"{where} must be text or a list of chunks, not {content!r:.80}.")
    for chunk in content:
        kind = chunk.get("type") if isinstance(chunk, Mapping) else None
        if kind not in ("text", "thinking"):
            raise PromptError(
                f"{where} has a chunk of type {kind!r}; this model reads text and thinking chunks."
            )
        if kind == "text" and not isinstance(chunk.get("text"), str):
            raise PromptError(f"{where} has a text chunk without text: {chunk!r:.80}.")
    return tuple(content)


def _tool_call(call: Any) -> ToolCall:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise ToolCallError(f"A tool call must have a function, but this one is {call!r:.200}.")
    _check_function_name(function.get("name"))
    arguments = function.get("arguments")
    if arguments is None or arguments == "":
        arguments = "{}"
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(_call_id(call.get("id")) or "", function["name"], arguments)


def _call_id(call_id: Any) -> str | None:
    """Deterministic: a call and its result, mapped apart, still meet. None and "null" are none."""
    if call_id is None or call_id == "null":
        return None
    if not isinstance(call_id, str) or not call_id:
        raise ToolCallError(
            f"Tool call id was {call_id} but must be a-z, A-Z, 0-9, with a length of 9."
        )
    return nine_alphanumerics(call_id)


def _tool(tool: Mapping[str, Any]) -> Tool:
    kind = tool.get("type", "function")
    function = tool.get("function")
    if kind != "function" or not isinstance(function, Mapping):
        raise ToolCallError(f"A tool must be of type function with a function, not {kind!r}.")
    _check_function_name(function.get("name"))
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise ToolCallError(
            f"Parameters of tool {function['name']} must be a JSON schema, not {parameters!r:.80}."
        )
    return Tool(
        name=function["name"],
        description=function.get("description") or "",
        parameters=parameters,
        strict=bool(function.get("strict")),
    )


def _check_function_name(name: Any) -> None:
    if not isinstance(name, str) or not _FUNCTION_NAME.fullmatch(name):
        raise ToolCallError(
            f"Function name was {name!s:.100} but must be a-z, A-Z, 0-9, "
            "or contain underscores and dashes, with a maximum length of 64."
        )


def _check_order(messages: Sequence[Message]) -> None:
    if not messages:
        raise MessageOrderError("Conversation must have at least one message")
    if len(messages) == 1 and messages[0].role not in ("user", "system"):
        raise MessageOrderError("Conversation must start with a user message or system message")
    last = messages[-1]
    if len(messages) > 1 and last.role == "assistant" and not last.prefix:
        raise MessageOrderError(
            "Expected last role User or Tool (or Assistant with prefix True) for serving "
            f"but got {last.role}"
        )
    for before, after in zip(messages, messages[1:], strict=False):
        if after.role not in _MAY_FOLLOW[before.role]:
            raise MessageOrderError(f"Unexpected role '{after.role}' after role '{before.role}'")
        if before.prefix:
            raise MessageOrderError("Assistant message with prefix True must be last message")
    _check_results_answer_calls(messages)


def _check_results_answer_calls(messages: Sequence[Message]) -> None:
    """As many results as calls, before the next assistant message and at the end."""
    num_open = 0
    for message in messages:
        if message.role == "tool":
            num_open -= 1
        elif message.role == "assistant":
            if num_open != 0:
                raise MessageOrderError("Not the same number of function calls and responses")
            num_open = len(message.tool_calls)
    if num_open != 0:
        raise MessageOrderError("Not the same number of function calls and responses")
