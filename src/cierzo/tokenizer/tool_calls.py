"""An answer's tokens, as they come, into content and whole tool calls.

Text is passed on at once, except what may turn out to begin a call. Knows how models spell
calls (`ToolFormat`); knows no HTTP and no sampling.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Mapping
from typing import Any, Protocol

from cierzo.tokenizer.messages import ToolCall, nine_alphanumerics
from cierzo.tokenizer.stop_strings import StopMatcher
from cierzo.tokenizer.tokenizer import Tokenizer
from cierzo.tokenizer.tool_format import (
    ARGS,
    CALL_CLOSE,
    CALL_ID,
    CALL_OPEN,
    TOOL_CALLS,
    ToolFormat,
)

Part = str | ToolCall
"""A piece of the answer's content, or one call."""


class ToolCallParser:
    """Separates one answer's content from its calls. The caller turns tokens into text.

    What looks like a call but does not parse is given back as text, unless it is the cut-off
    last of several: after whole calls, a fragment helps nobody.
    """

    def __init__(self, tokenizer: Tokenizer, tool_format: ToolFormat) -> None:
        self._has_called = False
        self._calls = _call_parser(tool_format)
        ids = tokenizer.control_tokens
        self._markers = {ids[text]: text for text in (TOOL_CALLS, CALL_ID, ARGS) if text in ids}

    def add(self, token_id: int, text: str) -> tuple[str, list[ToolCall]]:
        """(content, whole calls) that a token and the text it completed bring."""
        marker = self._markers.get(token_id)
        parts = self._calls.marker(marker) if marker else []
        content, calls = _sorted_out([*parts, *self._calls.text(text)])
        self._has_called |= bool(calls)
        return content, calls

    def flush(self) -> tuple[str, list[ToolCall]]:
        """What still waits when the answer is over."""
        return _sorted_out(self._calls.end(self._has_called))


def _sorted_out(parts: list[Part]) -> tuple[str, list[ToolCall]]:
    text = "".join(part for part in parts if isinstance(part, str))
    return text, [part for part in parts if isinstance(part, ToolCall)]


class _CallParser(Protocol):
    """One format's state: fed text and control tokens in order, then ended once.

    `has_called` tells the end whether a cut-off call would follow whole ones.
    """

    def text(self, text: str) -> list[Part]: ...

    def marker(self, marker: str) -> list[Part]: ...

    def end(self, has_called: bool) -> list[Part]: ...


def _call_parser(tool_format: ToolFormat) -> _CallParser:
    if tool_format is ToolFormat.JSON_LIST:
        return _ListParser()
    if tool_format in (ToolFormat.NAME_ID_ARGS, ToolFormat.NAME_ARGS):
        return _NamedParser()
    if tool_format is ToolFormat.TAGGED:
        return _TaggedParser()
    return _BareParser() if tool_format is ToolFormat.BARE_JSON else _NoCalls()


class _NoCalls:
    """Everything is content."""

    def text(self, text: str) -> list[Part]:
        return [text] if text else []

    def marker(self, marker: str) -> list[Part]:
        return []

    def end(self, has_called: bool) -> list[Part]:
        return []


class _NamedParser:
    """[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}: each marker opens the next field."""

    def __init__(self) -> None:
        self._fields: dict[str, str] = {}
        self._field: str | None = None

    def text(self, text: str) -> list[Part]:
        if self._field is None:
            return [text] if text else []
        self._fields[self._field] += text
        return []

    def marker(self, marker: str) -> list[Part]:
        done = self._finish_call() if marker == TOOL_CALLS else []
        if marker == TOOL_CALLS or self._field is not None:
            self._field = marker
            self._fields[marker] = ""
        return done

    def end(self, has_called: bool) -> list[Part]:
        parts = self._finish_call()
        return [part for part in parts if isinstance(part, ToolCall) or not has_called]

    def _finish_call(self) -> list[Part]:
        fields, self._fields, self._field = self._fields, {}, None
        if not fields:
            return []
        arguments = fields.get(ARGS, "").strip()
        name = fields[TOOL_CALLS].strip()
        if name and _is_object(arguments):
            return [ToolCall(regular_call_id(fields.get(CALL_ID, "").strip()), name, arguments)]
        return [written] if (written := "".join(fields.values())) else []


class _ListParser:
    """[TOOL_CALLS] [{…}, {…}]: each object is a call as soon as it is whole."""

    def __init__(self) -> None:
        self._rest: str | None = None

    def text(self, text: str) -> list[Part]:
        if self._rest is None:
            return [text] if text else []
        self._rest += text
        return self._whole_calls(self._rest) if "}" in text else []

    def marker(self, marker: str) -> list[Part]:
        done = self.end(has_called=False)
        self._rest = ""
        return done

    def end(self, has_called: bool) -> list[Part]:
        rest, self._rest = self._rest, None
        is_something = rest is not None and rest.strip(" \n[],")
        return [rest] if rest is not None and is_something and not has_called else []

    def _whole_calls(self, rest: str) -> list[Part]:
        calls: list[Part] = []
        while (start := rest.find("{")) >= 0:
            found = _first_object(rest[start:])
            if found is None:
                break
            call = _call_from(found[0])
            calls.append(call if call else rest[start : start + found[1]])
            rest = rest[start + found[1] :]
        self._rest = rest
        return calls


class _TaggedParser:
    """<tool_call>{…}</tool_call> in running text; white space around calls is not content."""

    def __init__(self) -> None:
        self._matcher = StopMatcher([CALL_OPEN])
        self._space = ""
        self._body: str | None = None

    def text(self, text: str) -> list[Part]:
        parts: list[Part] = []
        while True:
            if self._body is None:
                content, opened = self._matcher.add(text)
                parts += self._content(content)
                if not opened:
                    return parts
                self._space, self._body = "", ""
                text = self._matcher.rest
                self._matcher = StopMatcher([CALL_OPEN])
            self._body += text
            body, closing, text = self._body.partition(CALL_CLOSE)
            if not closing:
                return parts
            parts += _calls_in(body) or [CALL_OPEN + body + CALL_CLOSE]
            self._body = None

    def marker(self, marker: str) -> list[Part]:
        return []

    def end(self, has_called: bool) -> list[Part]:
        body, self._body = self._body, None
        if body is not None:
            return _calls_in(body) or ([] if has_called else [CALL_OPEN + body])
        if has_called:  # what is still held began another call
            return []
        parts = self._content(self._matcher.flush())
        return [*parts, self._space] if self._space else parts

    def _content(self, text: str) -> list[Part]:
        """White space waits: before a call it goes, before more text it stays."""
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        return [kept] if kept else []


class _BareParser:
    """{"name": …, "parameters": …} as the whole answer: one that starts so is held to its end."""

    def __init__(self) -> None:
        self._held = ""
        self._is_text = False

    def text(self, text: str) -> list[Part]:
        self._held += text
        beginning = self._held.lstrip()
        if not self._is_text and (not beginning or beginning.startswith("{")):
            return []
        self._is_text = True
        held, self._held = self._held, ""
        return [held] if held else []

    def marker(self, marker: str) -> list[Part]:
        return []

    def end(self, has_called: bool) -> list[Part]:
        held, self._held = self._held, ""
        return _calls_in(held) or ([held] if held else [])


def _calls_in(text: str) -> list[Part]:
    """The calls of a text that is nothing but JSON calls; none if any part is something else."""
    calls: list[Part] = []
    text = text.strip()
    while text:
        try:
            value, end = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            return []
        for item in value if isinstance(value, list) else [value]:
            call = _call_from(item)
            if call is None:
                return []
            calls.append(call)
        text = text[end:].strip(" \n;,")
    return calls


def _call_from(value: Any) -> ToolCall | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    if not _is_object(arguments):
        return None
    given_id = value.get("id")
    return ToolCall(
        regular_call_id(given_id if isinstance(given_id, str) else ""), value["name"], arguments
    )


def _first_object(text: str) -> tuple[Any, int] | None:
    """The JSON object that `text` begins with and its length; None while it is not whole."""
    try:
        return json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def regular_call_id(given: str) -> str:
    """The model's own id made regular, or a fresh one: nine alphanumerics."""
    if given:
        return nine_alphanumerics(given)
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
