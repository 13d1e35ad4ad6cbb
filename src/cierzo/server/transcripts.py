"""Keeps what was asked and answered, where the operator turned that on.

Of requests that were let in for a model; a batch job's lines are in its files anyway.
"""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cierzo.errors import StoreError
from cierzo.ids import now_ms
from cierzo.store import Database, transcripts
from cierzo.store.ledger import DAY_MS
from cierzo.store.transcripts import Transcript

logger = logging.getLogger(__name__)


class TranscriptMiddleware:
    """Stores a transcript when the answer has ended, however it did; nobody waits for that."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        days = scope["app"].state.config.transcript_days if scope["type"] == "http" else None
        if days is None:
            await self.app(scope, receive, send)
            return
        state = scope["state"]
        answer = bytearray()

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.body" and "metered" in state:
                answer.extend(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            if "metered" in state:
                at_ms = now_ms()
                await _keep(
                    scope["app"].state.database,
                    Transcript(
                        request_id=state["request_id"],
                        workspace_id=state["caller"].workspace_id,
                        created_at_ms=at_ms,
                        expires_at_ms=at_ms + days * DAY_MS,
                        request=state["body"],
                        answer=bytes(answer),
                    ),
                )


async def _keep(database: Database, transcript: Transcript) -> None:
    try:
        await database.in_thread(transcripts.keep, database, transcript)
    except StoreError as error:
        logger.error("no transcript of request %s: %s", transcript.request_id, error)
