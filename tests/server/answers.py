"""What the scripted engine says to the SDK scenarios: a greeting, a tool call, a JSON object."""

from __future__ import annotations

from cierzo.engine.request import GenerationRequest
from tests.server.scripted import TOOL_CALLS, Script


def answer(request: GenerationRequest) -> Script:
    prompt = bytes(token for token in request.prompt_token_ids if token < 256).decode()
    if "as JSON" in prompt:
        return ['{"is_friend": true, "count": 3}']
    if "weather" in prompt and "windy" not in prompt:
        return [TOOL_CALLS, 'weather{"city": "Huesca"}']
    return ["Hello there"]
