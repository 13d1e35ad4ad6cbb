"""Texts that no number of tokens within the context spells, refused before they cost anything."""

from __future__ import annotations

from collections.abc import Iterable

from cierzo.errors import ContextOverflowError

MAX_TOKEN_BYTES = 256
"""No vocabulary in use has a longer token."""


def refuse_endless_text(texts: Iterable[str], max_context_length: int, *, param: str) -> None:
    """Raise ContextOverflowError for texts that together cannot fit, however they tokenize."""
    num_bytes = sum(len(text.encode()) for text in texts)
    if num_bytes > max_context_length * MAX_TOKEN_BYTES:
        raise ContextOverflowError(
            f"the {param} holds {num_bytes} bytes of text, too many for a context of "
            f"{max_context_length} tokens; shorten it",
            param=param,
        )
