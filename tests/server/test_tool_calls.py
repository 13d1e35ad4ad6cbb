"""Tool calls on the wire: whole in one delta, finish_reason tool_calls, at most one if asked."""

from __future__ import annotations

import httpx2 as httpx

from tests.server.scripted import TOOL_CALLS, Script, ScriptedEngine
from tests.server.test_chat import CHAT, body, chunks

TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
    }
]
CALLS: Script = [
    "Let me see. ",
    TOOL_CALLS,
    'weather{"city": "Huesca"}\n',
    'weather{"city": "Jaca"}',
]
FIRST = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Huesca"}'},
    "index": 0,
}
SECOND = {
    "id": "call00002",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Jaca"}'},
    "index": 1,
}


def test_whole(client: httpx.Client, engine: ScriptedEngine) -> None:
    engine.script = lambda request: CALLS
    choice = client.post(CHAT, json=body(tools=TOOLS)).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see. "
    assert choice["message"]["tool_calls"] == [FIRST, SECOND]


def test_stream_sends_each_call_whole(client: httpx.Client, engine: ScriptedEngine) -> None:
    engine.script = lambda request: CALLS
    received = chunks(client.post(CHAT, json=body(tools=TOOLS, stream=True)))
    deltas = [chunk["choices"][0]["delta"] for chunk in received]
    assert [call for delta in deltas for call in delta.get("tool_calls", ())] == [FIRST, SECOND]
    assert received[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_parallel_tool_calls_false_stops_after_one(
    client: httpx.Client, engine: ScriptedEngine
) -> None:
    engine.script = lambda request: CALLS
    fields = body(tools=TOOLS, parallel_tool_calls=False)
    choice = client.post(CHAT, json=fields).json()["choices"][0]
    assert choice["message"]["tool_calls"] == [FIRST]
    assert choice["finish_reason"] == "tool_calls"
    assert engine.streams[0].is_closed


def test_cut_off_by_length_is_no_tool_call(client: httpx.Client, engine: ScriptedEngine) -> None:
    engine.script = lambda request: CALLS
    fields = body(tools=TOOLS, max_tokens=20)
    choice = client.post(CHAT, json=fields).json()["choices"][0]
    assert choice["finish_reason"] == "length"


def test_hosted_tools_are_refused_by_name(client: httpx.Client, engine: ScriptedEngine) -> None:
    answer = client.post(CHAT, json=body(tools=[{"type": "web_search"}]))
    assert answer.status_code == 400
    assert (
        'a tool of type "web_search" runs on the hosted platform only' in answer.json()["message"]
    )
