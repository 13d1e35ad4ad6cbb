"""Reads gguf_vocab.json, a GGUF file's own vocabulary, and checks it before anyone builds on it.

Knows the file's fields; building an encoder from them is gguf_tokenizer's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from cierzo.errors import ModelFileError

CODE_LLAMA_CONTROLS = frozenset(("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"))
"""Its files call these normal pieces, so that a text which spells them could steer the model."""


class TokenType(IntEnum):
    """GGUF's token types (SentencePiece's own numbers)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class GgufVocab:
    """One entry per token in `tokens`, `scores` (SPM only) and `token_types`."""

    model: str
    pre: str
    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    token_types: tuple[int, ...]
    merges: tuple[tuple[str, str], ...]
    bos_token_id: int | None
    eos_token_id: int | None
    unknown_token_id: int | None
    end_token_ids: tuple[int, ...]
    add_bos_token: bool | None
    add_eos_token: bool | None
    add_space_prefix: bool
    chat_template: str | None

    def ids_of_type(self, *types: TokenType) -> list[int]:
        """Ids of all tokens of these types, ascending."""
        return [i for i, token_type in enumerate(self.token_types) if token_type in types]


def read_gguf_vocab(path: Path) -> GgufVocab:
    """The vocabulary in `path`. Raises ModelFileError naming the field that is wrong."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is not readable JSON: {error}. Pack the model again."
        ) from None
    if not isinstance(fields, dict):
        raise ModelFileError(f"{path} must hold a JSON object, not a {type(fields).__name__}.")
    return _Fields(path, fields).vocab()


class _Fields:
    """The raw fields of one file, each checked as it is taken."""

    def __init__(self, path: Path, fields: dict[str, Any]) -> None:
        self._path = path
        self._fields = fields

    def vocab(self) -> GgufVocab:
        tokens = self._list("tokens", str, length=None)
        n_tokens = len(tokens)
        if n_tokens == 0:
            raise self._wrong("tokens", "must not be empty")
        return GgufVocab(
            model=self._value("model", str) or "",
            pre=self._value("pre", str) or "default",
            tokens=tokens,
            scores=self._list("scores", (int, float), n_tokens, default=0.0),
            token_types=self._token_types(tokens),
            merges=tuple(self._merge(m) for m in self._list("merges", (str, list), length=None)),
            bos_token_id=self._id("bos_token_id", n_tokens),
            eos_token_id=self._id("eos_token_id", n_tokens),
            unknown_token_id=self._id("unknown_token_id", n_tokens),
            end_token_ids=tuple(
                token_id
                for key in ("eot_token_id", "eom_token_id")
                if (token_id := self._id(key, n_tokens)) is not None
            ),
            add_bos_token=self._value("add_bos_token", bool),
            add_eos_token=self._value("add_eos_token", bool),
            add_space_prefix=self._value("add_space_prefix", bool) is not False,
            chat_template=self._value("chat_template", str),
        )

    def _token_types(self, tokens: tuple[str, ...]) -> tuple[int, ...]:
        types = self._list("token_types", int, len(tokens), default=TokenType.NORMAL)
        return tuple(
            TokenType.CONTROL if token in CODE_LLAMA_CONTROLS else token_type
            for token, token_type in zip(tokens, types, strict=True)
        )

    def _wrong(self, key: str, rule: str) -> ModelFileError:
        return ModelFileError(f"{self._path}: {key} {rule}. Pack the model again.")

    def _value(self, key: str, kind: type) -> Any:
        value = self._fields.get(key)
        if value is not None and not isinstance(value, kind):
            raise self._wrong(key, f"must be a {kind.__name__}, not {value!r:.80}")
        return value

    def _id(self, key: str, n_tokens: int) -> int | None:
        value: int | None = self._value(key, int)
        if value is not None and not 0 <= value < n_tokens:
            raise self._wrong(key, f"must be below the {n_tokens} tokens, not {value}")
        return value

    def _list(
        self, key: str, kind: Any, length: int | None, default: Any = None
    ) -> tuple[Any, ...]:
        values = self._fields.get(key)
        if values is None:
            return () if length is None else (default,) * length
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise self._wrong(key, "must be a list of one kind of value")
        if length is not None and len(values) != length:
            raise self._wrong(
                key, f"must have one entry for each of {length} tokens, not {len(values)}"
            )
        return tuple(values)

    def _merge(self, merge: str | list[str]) -> tuple[str, str]:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise self._wrong("merges", f"must be pairs of pieces, not {merge!r:.80}")
        return parts[0], parts[1]
