"""GGUF's own vocabularies as tokenizers: SentencePiece ("llama") and byte-level BPE ("gpt2").

The encoders are the field's own libraries, handed the vocabulary in their own format; the
merging is never re-written here. Knows gguf_vocab.json, not GGUF files.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken
from tokenizers import Tokenizer as Encoder
from tokenizers.models import BPE

from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.tokenizer.gguf_vocab import GgufVocab, TokenType, read_gguf_vocab
from cierzo.tokenizer.pretokenizers import word_rule
from cierzo.tokenizer.token_bytes import (
    byte_level_bytes,
    decode_tokens,
    join_texts,
    sentencepiece_bytes,
)
from cierzo.tokenizer.tokenizer import END_OF_TURN_TOKENS, Tokenizer


def load_gguf_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a gguf_vocab.json. Raises ModelFileError or UnsupportedModelError."""
    vocab = read_gguf_vocab(path)
    try:
        if vocab.model == "llama":
            return GgufSpmTokenizer(vocab)
        if vocab.model == "gpt2":
            return GgufBpeTokenizer(vocab)
    except (RuntimeError, ValueError, OverflowError, struct.error) as error:
        raise ModelFileError(f"{path}: the vocabulary does not build: {error}.") from None
    raise UnsupportedModelError(
        f"GGUF tokenizer model {vocab.model!r} is not one Cierzo reads (llama, gpt2)."
    )


class _GgufTokenizer:
    """What both kinds share: ids, bytes and decoding. Subclasses encode."""

    def __init__(self, vocab: GgufVocab, token_bytes: list[bytes]) -> None:
        self._vocab = vocab
        self._control_ids = frozenset(vocab.ids_of_type(TokenType.CONTROL, TokenType.UNKNOWN))
        for token_id in self._control_ids:
            token_bytes[token_id] = b""
        self._token_bytes = token_bytes
        self._control_tokens = {vocab.tokens[i]: i for i in sorted(self._control_ids)}
        ends = {vocab.eos_token_id, *vocab.end_token_ids}
        ends |= {i for text, i in self._control_tokens.items() if text in END_OF_TURN_TOKENS}
        self._eos_ids = frozenset(token_id for token_id in ends if token_id is not None)

    @property
    def vocab_size(self) -> int:
        return len(self._token_bytes)

    @property
    def bos_id(self) -> int | None:
        return self._vocab.bos_token_id

    @property
    def eos_ids(self) -> frozenset[int]:
        return self._eos_ids

    @property
    def added_eos_id(self) -> int | None:
        return self._vocab.eos_token_id if self._vocab.add_eos_token else None

    @property
    def control_tokens(self) -> Mapping[str, int]:
        return self._control_tokens

    @property
    def chat_template(self) -> str | None:
        return self._vocab.chat_template

    @property
    def template_variables(self) -> Mapping[str, str]:
        vocab = self._vocab
        ids = {
            "bos_token": vocab.bos_token_id,
            "eos_token": vocab.eos_token_id,
            "unk_token": vocab.unknown_token_id,
        }
        return {
            name: "" if token_id is None else vocab.tokens[token_id]
            for name, token_id in ids.items()
        }

    @property
    def adds_bos(self) -> bool:
        return self._vocab.add_bos_token is True

    @property
    def adds_space_prefix(self) -> bool:
        return False

    def decode(self, token_ids: Sequence[int]) -> str:
        return decode_tokens(token_ids, self.token_bytes, drop_first_space=self.adds_space_prefix)

    def token_bytes(self, token_id: int) -> bytes:
        return self._token_bytes[token_id]

    def is_control(self, token_id: int) -> bool:
        return token_id in self._control_ids

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        bos = [self.bos_id] if add_bos and self.bos_id is not None else []
        return bos + self._encode_text(text)

    def encode_pieces(self, pieces: Sequence[int | str]) -> list[int]:
        """Also begins the prompt with `bos_id` where the file asks for it (`add_bos_token`)."""
        token_ids: list[int] = []
        for piece in join_texts(pieces):
            token_ids += [piece] if isinstance(piece, int) else self._encode_segment(piece)
        if self.adds_bos and self.bos_id is not None and token_ids[:1] != [self.bos_id]:
            return [self.bos_id, *token_ids]
        return token_ids

    def _encode_text(self, text: str) -> list[int]:
        raise NotImplementedError

    def _encode_segment(self, text: str) -> list[int]:
        return self._encode_text(text)


class GgufBpeTokenizer(_GgufTokenizer):
    """Byte-level BPE with the pre-tokenizer that the file names."""

    def __init__(self, vocab: GgufVocab) -> None:
        user_defined = vocab.ids_of_type(TokenType.USER_DEFINED)
        super().__init__(vocab, _bpe_token_bytes(vocab, frozenset(user_defined)))
        rule = word_rule(vocab.pre)
        # Control tokens are left out of the encoder's vocabulary: no text can become one.
        encodable = {
            token: token_id
            for token_id, token in enumerate(vocab.tokens)
            if token_id not in self._control_ids
        }
        merges = [m for m in vocab.merges if all(p in encodable for p in (*m, m[0] + m[1]))]
        self._encoder = Encoder(
            BPE(vocab=encodable, merges=merges, ignore_merges=rule.ignore_merges)
        )
        self._encoder.pre_tokenizer = rule.build()
        self._encoder.add_tokens(
            [AddedToken(vocab.tokens[i], normalized=False) for i in user_defined if vocab.tokens[i]]
        )

    @property
    def version(self) -> str:
        return f"gguf gpt2/{self._vocab.pre}"

    def _encode_text(self, text: str) -> list[int]:
        # A fast batch of one: it leaves out where in the text each token stands.
        found = self._encoder.encode_batch_fast([text], add_special_tokens=False)
        token_ids: list[int] = found[0].ids
        return token_ids


def _bpe_token_bytes(vocab: GgufVocab, user_defined: frozenset[int]) -> list[bytes]:
    """User-defined tokens are written as the text they are, all others as byte-level pieces."""
    return [
        token.encode() if token_id in user_defined else byte_level_bytes(token)
        for token_id, token in enumerate(vocab.tokens)
    ]


class GgufSpmTokenizer(_GgufTokenizer):
    """SentencePiece BPE with byte fallback, merged by score, by the sentencepiece library."""

    def __init__(self, vocab: GgufVocab) -> None:
        super().__init__(vocab, [sentencepiece_bytes(token) for token in vocab.tokens])
        self._encoder = SentencePieceProcessor(model_proto=_sentencepiece_model(vocab))

    @property
    def version(self) -> str:
        return "gguf llama"

    @property
    def adds_bos(self) -> bool:
        return self._vocab.add_bos_token is not False

    @property
    def adds_space_prefix(self) -> bool:
        return self._vocab.add_space_prefix

    def _encode_text(self, text: str) -> list[int]:
        token_ids: list[int] = self._encoder.encode(text)
        return token_ids

    def _encode_segment(self, text: str) -> list[int]:
        # A template that wrote the space which the vocabulary adds means that one space.
        written = self.adds_space_prefix and text.startswith(" ")
        return self._encode_text(text[1:] if written else text)


def _sentencepiece_model(vocab: GgufVocab) -> bytes:
    """The vocabulary as SentencePiece's ModelProto (a protocol buffer), identity normalizer.

    Field numbers are those of sentencepiece_model.proto: pieces = 1 {piece 1, score 2, type 3},
    trainer_spec = 2 {model_type 3 (BPE = 2), byte_fallback 35}, normalizer_spec = 3
    {name 1, add_dummy_prefix 3, remove_extra_whitespaces 4, escape_whitespaces 5}.
    """
    has_bytes = TokenType.BYTE in vocab.token_types
    model = bytearray()
    for token, score, token_type in zip(vocab.tokens, vocab.scores, vocab.token_types, strict=True):
        piece = _field(1, token.encode()) + b"\x15" + struct.pack("<f", score)
        model += _field(1, piece + _varint(3, token_type))
    model += _field(2, _varint(3, 2) + _varint(35, int(has_bytes)))
    normalizer = _field(1, b"identity") + _varint(3, int(vocab.add_space_prefix))
    model += _field(3, normalizer + _varint(4, 0) + _varint(5, 1))
    return bytes(model)


def _number(value: int) -> bytes:
    """A protocol buffer varint: seven bits a byte, lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value)


def _field(field: int, data: bytes) -> bytes:
    return _number(field << 3 | 2) + _number(len(data)) + data
