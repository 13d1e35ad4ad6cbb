"""The ways in which models write tool calls, and which one a template teaches.

Knows spellings only; parsing is `tool_calls.py`'s, holding a model to one is `grammar.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

from cierzo.tokenizer.messages import Message, Tool, ToolCall

TOOL_CALLS = "[TOOL_CALLS]"
CALL_ID = "[CALL_ID]"
ARGS = "[ARGS]"
CALL_OPEN = "<tool_call>"
CALL_CLOSE = "</tool_call>"


class ToolFormat(StrEnum):
    """How an answer spells its calls; capitals in brackets are control tokens."""

    NONE = "none"
    """The model's format has no tools (Mistral v1)."""

    JSON_LIST = "json_list"
    """[TOOL_CALLS] [{"name": …, "arguments": …, "id": …}, …]: Mistral v2, v3, v7."""

    NAME_ID_ARGS = "name_id_args"
    """[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}, repeated: Mistral v11."""

    NAME_ARGS = "name_args"
    """[TOOL_CALLS]name[ARGS]{…}, repeated: Mistral v13 and later."""

    TAGGED = "tagged"
    """<tool_call>{"name": …, "arguments": …}</tool_call>, repeated: Hermes, Qwen, our fallback."""

    BARE_JSON = "bare_json"
    """The whole answer is {"name": …, "parameters": …}: Llama 3."""


def template_tool_format(template: str, control_tokens: Mapping[str, int]) -> ToolFormat | None:
    """The format that a template with tools teaches; None when it has none that we can read."""
    if "tools" not in template:
        return None
    if TOOL_CALLS in template and TOOL_CALLS in control_tokens:
        if ARGS not in template:
            return ToolFormat.JSON_LIST
        return ToolFormat.NAME_ID_ARGS if CALL_ID in template else ToolFormat.NAME_ARGS
    if CALL_OPEN in template:
        return ToolFormat.TAGGED
    if '"parameters": ' in template and '"name": ' in template:
        return ToolFormat.BARE_JSON
    return None


FALLBACK_INSTRUCTIONS = """\
You can call these functions, one JSON description per line:
<tools>
{tools}
</tools>
To call a function, write its name and arguments as JSON inside tags, once per call:
<tool_call>
{{"name": "function_name", "arguments": {{"argument": "value"}}}}
</tool_call>
Call a function only when it helps. Otherwise answer in plain words."""


def explain_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The same conversation for a template without tools: everything said in plain messages.

    The tool list ends the system message, calls are tagged text, results are user messages.
    """
    plain = [_in_plain_text(message) for message in messages]
    if not tools:
        return plain
    listing = "\n".join(
        json.dumps(tool.to_wire()["function"], ensure_ascii=False) for tool in tools
    )
    text = FALLBACK_INSTRUCTIONS.format(tools=listing)
    if plain[0].role == "system":
        return [replace(plain[0], content=f"{plain[0].text}\n\n{text}"), *plain[1:]]
    return [Message("system", text), *plain]


def tagged_call(call: ToolCall) -> str:
    """One call in the TAGGED format."""
    name = json.dumps(call.name)
    return f'{CALL_OPEN}\n{{"name": {name}, "arguments": {call.arguments}}}\n{CALL_CLOSE}'


def _in_plain_text(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>\n{message.text}\n</tool_response>")
    if message.tool_calls:
        calls = [tagged_call(call) for call in message.tool_calls]
        parts = [message.text, *calls] if message.text else calls
        return Message("assistant", "\n".join(parts), prefix=message.prefix)
    return message
