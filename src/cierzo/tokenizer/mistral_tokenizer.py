"""Mistral's own tokenizer files, read by Mistral's own library.

Versioned SentencePiece models (tokenizer.model.vN) and Tekken (tekken.json). Knows the
vocabulary; how conversations are written is `mistral_prompt.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import is_tekkenizer

from cierzo.errors import ModelFileError
from cierzo.tokenizer.token_bytes import decode_tokens, join_texts, sentencepiece_bytes
from cierzo.tokenizer.tokenizer import MAX_VOCAB_SIZE

_BYTES = frozenset(bytes([byte]) for byte in range(256))


class MistralFileTokenizer:
    """A vendor file as a `Tokenizer`; `vendor` is the vendor's object for whole conversations.

    Raises ModelFileError for a file that the vendor's library cannot read.
    """

    def __init__(self, path: Path) -> None:
        try:
            _check_counts(path)
            self.vendor: MistralTokenizer[Any, Any, Any, Any, Any] = MistralTokenizer.from_file(
                path, mode=ValidationMode.serving
            )
            self._read_vocabulary()
        except Exception as error:  # the library asserts, indexes and parses its way through
            raise ModelFileError(
                f"{path} is not a Mistral tokenizer file that this release can read: "
                f"{type(error).__name__}: {error!s:.300}. Fetch the file again."
            ) from None

    def _read_vocabulary(self) -> None:
        inner = self.vendor.instruct_tokenizer.tokenizer
        self._inner = inner
        self._is_tekken = is_tekkenizer(inner)
        self._control_ids = frozenset({*inner.special_ids, inner.unk_id})
        self._control_tokens = {inner.id_to_piece(i): i for i in sorted(self._control_ids)}
        self._token_bytes = [self._bytes_of(i) for i in range(inner.n_words)]
        self._bos_id, self._eos_id = inner.bos_id, inner.eos_id
        if min(self._bos_id, self._eos_id) < 0:  # SentencePiece's way of saying that it has none
            raise ValueError("the vocabulary lacks <s> or </s>")
        if self._is_tekken and not _BYTES.issubset(self._token_bytes):
            # The library's encoder panics at the first text that needs a missing byte.
            raise ValueError("the vocabulary lacks some of the 256 single bytes")

    @property
    def vocab_size(self) -> int:
        return len(self._token_bytes)

    @property
    def version(self) -> str:
        return f"{'tekken' if self._is_tekken else 'spm'} {self.vendor.version.value}"

    @property
    def bos_id(self) -> int | None:
        return self._bos_id

    @property
    def adds_bos(self) -> bool:
        return True

    @property
    def eos_ids(self) -> frozenset[int]:
        return frozenset({self._eos_id})

    @property
    def added_eos_id(self) -> int | None:
        return None

    @property
    def control_tokens(self) -> Mapping[str, int]:
        return self._control_tokens

    @property
    def adds_space_prefix(self) -> bool:
        return not self._is_tekken

    @property
    def chat_template(self) -> str | None:
        return None

    @property
    def template_variables(self) -> Mapping[str, str]:
        return {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        return self._inner.encode(text, bos=add_bos, eos=False)

    def encode_pieces(self, pieces: Sequence[int | str]) -> list[int]:
        token_ids: list[int] = []
        for piece in join_texts(pieces):
            if isinstance(piece, int):
                token_ids.append(piece)
            else:
                written = self.adds_space_prefix and piece.startswith(" ")
                token_ids += self.encode(piece[1:] if written else piece)
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return decode_tokens(token_ids, self.token_bytes, drop_first_space=self.adds_space_prefix)

    def token_bytes(self, token_id: int) -> bytes:
        return self._token_bytes[token_id]

    def is_control(self, token_id: int) -> bool:
        return token_id in self._control_ids

    def _bytes_of(self, token_id: int) -> bytes:
        if token_id in self._control_ids:
            return b""
        if is_tekkenizer(self._inner):
            return self._inner.id_to_byte_piece(token_id)
        return sentencepiece_bytes(self._inner.id_to_piece(token_id))


def _check_counts(path: Path) -> None:
    """The library writes out as many special tokens as a Tekken file claims: not any number."""
    if path.suffix == ".json":
        for count in re.findall(rb'"default_num_special_tokens"\s*:\s*(\d+)', path.read_bytes()):
            if len(count) > len(str(MAX_VOCAB_SIZE)) or int(count) > MAX_VOCAB_SIZE:
                raise ValueError(f"default_num_special_tokens is {count[:20].decode()}")
