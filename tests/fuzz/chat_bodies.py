"""Target: any bytes to the chat endpoint, through the app without a socket.

The engine, the tokenizer and the grammars are real; the model is noise. Every answer is 2xx or
4xx, its body is JSON or events, and the engine is well afterwards.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx

from cierzo.config import EngineConfig
from cierzo.engine import Engine
from cierzo.server.app import build_app
from cierzo.server.chat_text import ChatText
from cierzo.server.config import ServerConfig
from cierzo.server.token_model import TokenModel
from cierzo.store import open_database
from cierzo.store.files import FileStore
from cierzo.tokenizer.chat_prompt import ChatPrompt
from cierzo.tokenizer.loading import load_tokenizer
from tests.fuzz.mutations import Mutator
from tests.server.tiny_server import NoiseModel
from tests.tokenizer.tekken_files import write_tekken

_MAX_MODEL_LEN = 320
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{1,4}$", "maxLength": 9},
        "size": {"anyOf": [{"type": "integer", "minimum": 3}, {"enum": ["s", "m"]}]},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 2},
    },
    "$defs": {"tag": {"type": "string", "format": "date"}},
    "additionalProperties": False,
}
_CALL = {"id": "abcdefghi", "function": {"name": "weather", "arguments": '{"city": "Jaca"}'}}
_CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": "sunny", "tool_call_id": "abcdefghi", "name": "weather"},
    {"role": "assistant", "content": "Sunny."},
    {"role": "user", "content": "And now?"},
]
_USER = [{"role": "user", "content": "Hi"}]
_BODIES: tuple[dict[str, Any], ...] = (
    {"messages": _CONVERSATION, "tools": [_TOOL], "tool_choice": "any"},
    {"messages": _USER, "tools": [_TOOL], "tool_choice": {"function": {"name": "weather"}}},
    {"messages": _USER, "response_format": {"type": "json_object"}, "stream": True},
    {
        "messages": _USER,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}},
    },
    {"messages": [*_USER, {"role": "assistant", "content": "He", "prefix": True}], "stop": ["a"]},
    {
        **{"messages": _USER, "temperature": 0.7, "top_p": 0.9, "top_k": 5, "random_seed": 1},
        **{"n": 2, "min_tokens": 1, "presence_penalty": 1.0, "frequency_penalty": -1.0},
        **{"repetition_penalty": 1.2, "logprobs": True, "top_logprobs": 3, "stream": True},
    },
    {
        **{"messages": _USER, "safe_prompt": True, "reasoning_effort": "high", "seed": 3},
        **{"prediction": {"type": "content", "content": "x"}, "metadata": {"a": 1}},
        **{"prompt_logprobs": True, "top_prompt_logprobs": 2, "user": "me"},
        **{"logit_bias": {"3": 1.0}, "stream_options": {"include_usage": True}},
    },
)
_TYPES = ("application/json", "text/plain", "application/json; charset=utf-16", "")


def open_target(work: Path) -> Callable[[random.Random, Path], None]:
    """Starts an engine over a noise model; the result sends one body."""
    tokenizer = load_tokenizer(write_tekken(work, "v13"))
    config = EngineConfig(max_model_len=_MAX_MODEL_LEN, num_blocks=256)
    engine = Engine(NoiseModel(tokenizer.vocab_size), config)
    model = TokenModel(
        id="tiny",
        engine=engine,
        text=ChatText(tokenizer, ChatPrompt(tokenizer), tokenizer.vocab_size),
        created=1,
        max_context_length=_MAX_MODEL_LEN,
        embedding_dim=8,
    )
    database = open_database(work, None)
    files = FileStore(database, work)
    apps = [
        build_app([model], database, files, ServerConfig(strict_fields=strict))
        for strict in (False, True)
    ]
    loop = asyncio.new_event_loop()
    failures: list[BaseException] = []
    _collect_logged(failures)

    def run(rng: random.Random, folder: Path) -> None:
        mutator = Mutator(rng)
        body = {"model": "tiny", "max_tokens": 3, **rng.choice(_BODIES)}
        content = mutator.json_bytes(body)
        (folder / "body").write_bytes(content)
        headers = {"content-type": rng.choice(_TYPES)}
        if mutator.chance(0.05):
            headers["content-length"] = rng.choice(("0", "-1", "9" * 30, "x", "²"))
        answer = loop.run_until_complete(_send(rng.choice(apps), content, headers))
        if failures:
            raise AssertionError(f"status {answer.status_code}") from failures.pop()
        assert 200 <= answer.status_code < 300 or 400 <= answer.status_code < 500, answer.text[:500]
        _check_body(answer)
        assert engine.is_healthy(), "the engine stopped"

    return run


def _collect_logged(failures: list[BaseException]) -> None:
    """Errors that the server only logs are put into `failures`."""

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                failures.append(record.exc_info[1])

    logging.getLogger("cierzo").addHandler(Collect())


async def _send(app: Any, content: bytes, headers: dict[str, str]) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://fuzz") as client:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        return await client.post(
            "/v1/chat/completions", content=content, headers=httpx.Headers(raw)
        )


def _check_body(answer: httpx.Response) -> None:
    if "event-stream" not in answer.headers.get("content-type", ""):
        json.loads(answer.content)
        return
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""], f"the stream ends with {events[-2:]}"
    for event in events[:-2]:
        assert "error" not in json.loads(event.removeprefix("data: ")), event[:500]
