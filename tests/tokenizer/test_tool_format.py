"""Which spelling of tool calls a template teaches, and conversations without one."""

from __future__ import annotations

import pytest

from cierzo.tokenizer.messages import parse_messages, parse_tools
from cierzo.tokenizer.tool_format import ToolFormat, explain_tools, template_tool_format

CONTROLS = {"[TOOL_CALLS]": 9, "[ARGS]": 20, "[CALL_ID]": 21}


@pytest.mark.parametrize(
    ("template", "tool_format"),
    [
        ("{{ messages }}", None),
        ("{{ tools }} in words of their own", None),
        ("{{ tools }}[TOOL_CALLS] [{{ call }}]", ToolFormat.JSON_LIST),
        ("{{ tools }}[TOOL_CALLS]{{ n }}[CALL_ID]{{ i }}[ARGS]", ToolFormat.NAME_ID_ARGS),
        ("{{ tools }}[TOOL_CALLS]{{ n }}[ARGS]", ToolFormat.NAME_ARGS),
        ("{% if tools %}<tools></tools> <tool_call>{% endif %}", ToolFormat.TAGGED),
        ('{{ tools }}{"name": function, "parameters": {}}', ToolFormat.BARE_JSON),
    ],
)
def test_format_is_read_off_the_template(template: str, tool_format: ToolFormat | None) -> None:
    assert template_tool_format(template, CONTROLS) == tool_format


def test_markers_that_are_no_control_tokens_are_not_parsed_as_such() -> None:
    assert template_tool_format("{{ tools }}[TOOL_CALLS]", {}) is None


def test_conversation_without_system_message_gets_one() -> None:
    tools = parse_tools([{"type": "function", "function": {"name": "now"}}])
    messages = parse_messages([{"role": "user", "content": "U"}])
    told = explain_tools(messages, tools)
    assert [message.role for message in told] == ["system", "user"]
    assert '{"name": "now", "description": "", "parameters": {}}' in told[0].text
    assert explain_tools(messages, []) == messages
