"""Grammars (llguidance's Lark) for the ways in which models spell tool calls.

Arguments are held to each tool's schema; a tool that is not `strict` passes over keywords
that cannot be held. Knows spellings; compiling is `grammar.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cierzo.tokenizer.messages import Tool
from cierzo.tokenizer.tokenizer import Tokenizer
from cierzo.tokenizer.tool_format import (
    ARGS,
    CALL_CLOSE,
    CALL_ID,
    CALL_OPEN,
    TOOL_CALLS,
    ToolFormat,
)

FREE_TEXT = "FREE: /(.|\\n)+/\n"
"""Any text. Control tokens are no text, so a call cannot start inside it."""

MAX_CALLS = 16
"""Calls in one answer that is held to calls: a small model, left alone, never stops calling."""

_MORE = f"{{0,{MAX_CALLS - 1}}}"
_WHITE_SPACE = r"( |\n[ \t]{0,24})"
"""One space, or a line break and its indentation: free white space would never have to end."""


def held_schema(schema: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    """`schema` with our compile options; what its sender put in their place is dropped."""
    options = {"whitespace_pattern": _WHITE_SPACE, "lenient": not strict}
    return {**schema, "x-guidance": options}


def compact_json(grammar: str) -> str:
    """The same grammar with JSON in its shortest spelling, for an llguidance of another release:
    some do not know our bound on white space, and a model that may always write more of it does.
    """
    bound = f'"whitespace_pattern": {json.dumps(_WHITE_SPACE)}'
    return grammar.replace(bound, '"whitespace_flexible": false')


def json_rule(name: str, schema: Mapping[str, Any], adds_space_prefix: bool) -> str:
    """A rule for JSON at the start of an answer, where SentencePiece writes one space."""
    return f"{name}: {_space(adds_space_prefix)}%json {json.dumps(schema)}\n"


class ToolGrammar:
    """Rules for one model's spelling of calls; `parallel` allows several in one answer."""

    def __init__(self, tokenizer: Tokenizer, tool_format: ToolFormat, *, parallel: bool) -> None:
        self._control_tokens = tokenizer.control_tokens
        self._format = tool_format
        self._parallel = parallel
        self._space = _space(tokenizer.adds_space_prefix)

    def calls(self, tools: Sequence[Tool]) -> str:
        """The rule `calls`: one call of these tools, or more. The answer holds nothing else."""
        if self._format is ToolFormat.BARE_JSON:  # the format has no way to write two
            return self._alternatives("calls", tools, '{"name": "%s", "parameters": ', "}")
        if self._format is ToolFormat.JSON_LIST:
            item = self._alternatives("item", tools, '{"name": "%s", "arguments": ', "}", tail=_ID)
            more = f' (", " item){_MORE}' if self._parallel else ""
            start = f'{self._token(TOOL_CALLS)} {self._space}"[" item{more} "]"'
            return f"calls: {start}\n{item}"
        if self._format is ToolFormat.TAGGED:
            more = f' ("\\n{CALL_OPEN}" body){_MORE}' if self._parallel else ""
            return f'calls: {self._space}"{CALL_OPEN}" body{more}\n{self._tag_body(tools)}'
        return f"calls: call{f' call{_MORE}' if self._parallel else ''}\n{self._named_calls(tools)}"

    def text_or_calls(self, tools: Sequence[Tool]) -> str:
        """A whole grammar: any text, calls, or text and then calls."""
        if self._format is ToolFormat.BARE_JSON:
            # Text and call are told apart by the first character alone.
            return f"start: TEXT | calls\nTEXT: /[^{{\\s](.|\\n)*/\n{self.calls(tools)}"
        if self._format is not ToolFormat.TAGGED:
            return f"start: FREE | FREE? calls\n{FREE_TEXT}{self.calls(tools)}"
        more = f' ("\\n{CALL_OPEN}" body){_MORE}' if self._parallel else ""
        untagged = f"UNTAGGED: /(.|\\n)+/ & ~/(.|\\n)*{CALL_OPEN}(.|\\n)*/\n"
        before = f'before[suffix="{CALL_OPEN}"]: /(.|\\n)*/\n'
        return f"start: UNTAGGED | before body{more}\n{untagged}{before}{self._tag_body(tools)}"

    def _tag_body(self, tools: Sequence[Tool]) -> str:
        """From after the opening tag to the closing one."""
        return self._alternatives(
            "body", tools, '\n{"name": "%s", "arguments": ', f"}}\n{CALL_CLOSE}"
        )

    def _named_calls(self, tools: Sequence[Tool]) -> str:
        """[TOOL_CALLS]name[ARGS]{…}, with [CALL_ID] between where the version has it."""
        opening = f"{self._token(TOOL_CALLS)} {self._space}"
        arguments = f"{self._token(ARGS)} {self._space}"
        if self._format is ToolFormat.NAME_ID_ARGS:
            arguments = f"{self._token(CALL_ID)} {self._space}/[a-zA-Z0-9]{{9}}/ {arguments}"
        calls = [
            f"{opening}{json.dumps(tool.name)} {arguments}%json {_arguments_schema(tool)}"
            for tool in tools
        ]
        return f"call: {' | '.join(f'({call})' for call in calls)}\n"

    def _alternatives(
        self, rule: str, tools: Sequence[Tool], before: str, after: str, tail: str = ""
    ) -> str:
        """One alternative per tool: fixed text around arguments that fit its schema."""
        calls = [
            f"({json.dumps(before % tool.name)} %json {_arguments_schema(tool)}"
            f" {tail}{json.dumps(after)})"
            for tool in tools
        ]
        space = self._space if rule == "calls" else ""
        return f"{rule}: {space}({' | '.join(calls)})\n"

    def _token(self, spelling: str) -> str:
        return f"<[{self._control_tokens[spelling]}]>"


_ID = '(", \\"id\\": \\"" /[a-zA-Z0-9]{9}/ "\\"")? '
"""Version 3 and 7 write an id; it may be left out, and is then made up."""


def _space(adds_space_prefix: bool) -> str:
    return '" "? ' if adds_space_prefix else ""


def _arguments_schema(tool: Tool) -> str:
    return json.dumps(held_schema({"type": "object", **tool.parameters}, strict=tool.strict))
