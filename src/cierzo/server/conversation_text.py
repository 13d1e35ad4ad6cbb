"""A conversation as the text that a classifier judges: its last message, after what led to it."""

from __future__ import annotations

from collections.abc import Sequence

from cierzo.errors import UnsupportedRequestError
from cierzo.server.schemas.chat import BaseMessage, OtherChunk


def conversation_text(messages: Sequence[BaseMessage]) -> str:
    """The last message's text alone, or below the earlier ones where there are any.

    Raises UnsupportedRequestError for messages that are not all text.
    """
    refuse_unreadable(messages)
    *before, last = messages
    if not before:
        return last.text
    earlier = "\n".join(f"{message.role}: {message.text}" for message in before)
    return f"{earlier}\n\nJudge only the message that follows.\n{last.role}: {last.text}"


def refuse_unreadable(messages: Sequence[BaseMessage]) -> None:
    """Raise UnsupportedRequestError for a chunk that is no text: leaving it out in silence would
    answer, or judge, another message than the one that was sent."""
    for position, message in enumerate(messages):
        for chunk in message.content if isinstance(message.content, list) else ():
            if isinstance(chunk, OtherChunk):
                raise UnsupportedRequestError(
                    f'messages[{position}]: a content chunk of type "{chunk.type}" needs a model '
                    "that reads it, and this one reads text only; send text chunks",
                    param="messages",
                )
