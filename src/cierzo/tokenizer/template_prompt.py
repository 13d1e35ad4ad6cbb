"""Chat prompts by the checkpoint's own Jinja template, with user text kept from being markup.

The template runs in `TemplateProcess`. Its own words are parsed for control tokens; what
users wrote is not (docs/decisions/0021-templates-and-user-text.md). Knows no Mistral format.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cierzo.errors import UnsupportedRequestError
from cierzo.tokenizer.messages import Message, Tool, merge_same_role
from cierzo.tokenizer.template_process import TemplateProcess
from cierzo.tokenizer.token_bytes import join_texts
from cierzo.tokenizer.tokenizer import Tokenizer
from cierzo.tokenizer.tool_format import ToolFormat, explain_tools, template_tool_format

_PRIVATE_USE = range(0xF0000, 0xFFFFE)


class TemplatePrompt:
    """One model's template, ready to turn conversations into prompt token ids."""

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._process = TemplateProcess()
        known_format = template_tool_format(template, tokenizer.control_tokens)
        self._template_has_tools = known_format is not None
        self.tool_format: ToolFormat = known_format or ToolFormat.TAGGED
        # A token of one character cannot be broken up, so it is never read as control.
        spellings = [text for text in tokenizer.control_tokens if len(text) > 1]
        self._spellings = sorted(spellings, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, self._spellings)) or r"(?!)")

    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        *,
        reasoning_effort: str | None,
        prompt_mode: str | None,
        response_format: Mapping[str, Any] | None,
    ) -> list[int]:
        """Prompt token ids, ready for the assistant's answer. Raises TemplateError.

        The template sees `reasoning_effort` and `prompt_mode`; one that never reads them is
        not asked to pretend (UnsupportedRequestError). `response_format` is the grammar's.
        """
        given = {"reasoning_effort": reasoning_effort, "prompt_mode": prompt_mode}
        options = {name: value for name, value in given.items() if value is not None}
        self._check_options(options)
        if not self._template_has_tools:
            messages, tools = explain_tools(messages, tools), ()
        messages = merge_same_role(messages)
        prefix = messages[-1].text if messages[-1].prefix else ""
        if messages[-1].prefix:
            messages = messages[:-1]
        context: dict[str, Any] = {
            "messages": [_for_template(message) for message in messages],
            "tools": [tool.to_wire() for tool in tools] or None,
            **options,
        }
        pieces = self._render(context)
        return self._tokenizer.encode_pieces([*pieces, prefix])

    def close(self) -> None:
        """Ends the template's process."""
        self._process.close()

    def _check_options(self, options: Mapping[str, str]) -> None:
        for name, value in options.items():
            if name not in self._template:
                raise UnsupportedRequestError(
                    f"{name} {value!r} is not supported: this model's chat template does not "
                    "read it. Leave it out.",
                    param=name,
                )

    def _render(self, context: Mapping[str, Any]) -> list[int | str]:
        """The prompt as control ids and texts, no control id coming from `context`."""
        user_text = json.dumps(context, ensure_ascii=False)
        mark = _unused_character(user_text + self._template)
        lightly = self._split(self._render_marked(context, mark, self._break_spellings(mark)), mark)
        if not any(text[0] in user_text for text in self._spellings):
            return lightly
        fully = self._split(self._render_marked(context, mark, self._break_beginnings(mark)), mark)
        # They differ only if the template cut or glued user text into a control token.
        return lightly if _controls(lightly) == _controls(fully) else fully

    def _render_marked(
        self, context: Mapping[str, Any], mark: str, marked: Callable[[str], str]
    ) -> str:
        safe = _map_strings(context, marked)
        rendered = self._process.render(
            self._template,
            {
                **self._tokenizer.template_variables,
                "add_generation_prompt": True,
                **safe,
            },
        )
        return rendered.replace(json.dumps(mark)[1:-1], mark)

    def _break_spellings(self, mark: str) -> Callable[[str], str]:
        """A mark after the first character of every control token that a text spells."""

        def marked(text: str) -> str:
            return self._control.sub(lambda match: match[0][0] + mark + match[0][1:], text)

        return marked

    def _break_beginnings(self, mark: str) -> Callable[[str], str]:
        """A mark after every character that could begin a control token."""
        table = str.maketrans({text[0]: text[0] + mark for text in self._spellings})
        return lambda text: text.translate(table)

    def _split(self, rendered: str, mark: str) -> list[int | str]:
        pieces: list[int | str] = []
        at = 0
        for match in self._control.finditer(rendered):
            pieces += [rendered[at : match.start()].replace(mark, "")]
            pieces += [self._tokenizer.control_tokens[match[0]]]
            at = match.end()
        return join_texts([*pieces, rendered[at:].replace(mark, "")])


def _controls(pieces: Sequence[int | str]) -> list[int]:
    return [piece for piece in pieces if isinstance(piece, int)]


def _unused_character(text: str) -> str:
    """A private-use character, drawn anew for each prompt, that nothing in the prompt holds."""
    while (mark := chr(random.SystemRandom().choice(_PRIVATE_USE))) in text:
        pass
    return mark


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every string changed, keys too; the values of "role" and "type" are ours."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            change(key): item if key == "role" else _map_strings(item, change)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_map_strings(item, change) for item in value]
    return value


def _for_template(message: Message) -> dict[str, Any]:
    """A message as Hugging Face's templates expect it: text content, arguments as an object."""
    fields: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        fields["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            fields["name"] = message.name
    return fields


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
