"""The vocabulary inside a GGUF's metadata, as the JSON object the tokenizer layer reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cierzo.errors import ModelFileError

_PREFIX = "tokenizer.ggml."
_KEYS = {
    "model": "model",
    "pre": "pre",
    "tokens": "tokens",
    "scores": "scores",
    "token_type": "token_types",
    "merges": "merges",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "eot_token_id": "eot_token_id",
    "eom_token_id": "eom_token_id",
    "unknown_token_id": "unknown_token_id",
    "padding_token_id": "padding_token_id",
    "add_bos_token": "add_bos_token",
    "add_eos_token": "add_eos_token",
    "add_space_prefix": "add_space_prefix",
}


def gguf_vocabulary(metadata: Mapping[str, Any], origin: str) -> dict[str, Any] | None:
    """None for a file without tokens. Lists are of one length where they go by token.

    Raises ModelFileError when they are not.
    """
    if _PREFIX + "tokens" not in metadata:
        return None
    vocabulary = {
        ours: _plain(metadata[_PREFIX + theirs])
        for theirs, ours in _KEYS.items()
        if _PREFIX + theirs in metadata
    }
    vocabulary["chat_template"] = metadata.get("tokenizer.chat_template")
    num_tokens = _length(vocabulary["tokens"], "tokens", origin)
    for name in ("scores", "token_types"):
        if name in vocabulary and _length(vocabulary[name], name, origin) != num_tokens:
            raise ModelFileError(
                f"{origin}: {len(vocabulary[name])} {name} for {num_tokens} tokens"
            )
    return vocabulary


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _length(value: Any, name: str, origin: str) -> int:
    if not isinstance(value, list):
        raise ModelFileError(f"{origin}: {_PREFIX}{name} must be a list")
    return len(value)
