"""One short answer before the first client comes.

It starts the template's process and brings the weights' pages in. Knows what every request does.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from cierzo.errors import CierzoError
from cierzo.server.chat_request import prepare_chat
from cierzo.server.schemas.chat import ChatCompletionRequest, UserMessage
from cierzo.server.token_model import TokenModel


def warm_up(model: TokenModel) -> None:
    """Waits for one token of `model`. Call it outside any event loop."""
    hello = UserMessage(role="user", content="Hello")
    body = ChatCompletionRequest(model=model.id, messages=[hello], max_tokens=1)
    with suppress(CierzoError):  # a model that cannot chat says so to those who ask
        asyncio.run(_answer(model, body))


async def _answer(model: TokenModel, body: ChatCompletionRequest) -> None:
    async for _ in model.engine.submit(prepare_chat(body, model, "warm-up", "warm-up").request):
        pass
