"""Hugging Face's tokenizer.json, with the files beside it that say what its tokens mean.

BPE only (byte-level or SentencePiece-like), which is what the models we run have. Knows the
files' fields; encoding is the `tokenizers` library's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Encoder

from cierzo.chat_template import chosen_template
from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.tokenizer.token_bytes import (
    byte_level_bytes,
    decode_tokens,
    join_texts,
    sentencepiece_bytes,
)
from cierzo.tokenizer.tokenizer import END_OF_TURN_TOKENS, MAX_VOCAB_SIZE

_VARIABLES = ("bos_token", "eos_token", "unk_token", "pad_token")


class HfTokenizer:
    """A checkpoint folder's tokenizer.json. Raises ModelFileError, UnsupportedModelError."""

    def __init__(self, folder: Path) -> None:
        fields = _read_object(folder / "tokenizer.json")
        config = _read_object(folder / "tokenizer_config.json", optional=True)
        special_map = _read_object(folder / "special_tokens_map.json", optional=True)
        generation = _read_object(folder / "generation_config.json", optional=True)
        try:
            self._set_tokens(fields)
            self._encoder = _encoder(fields)
            later = _without_first_prefix(fields)
            self._later_encoder = self._encoder if later is None else _encoder(later)
            first_bytes = self._token_bytes[self.encode("a")[0]]
        except UnsupportedModelError:
            raise
        except Exception as error:  # `tokenizers` raises plain Exception for a bad file
            raise ModelFileError(
                f"{folder / 'tokenizer.json'} does not build: {type(error).__name__}: "
                f"{error!s:.300}. Fetch the file again."
            ) from None
        self._adds_space_prefix = first_bytes.startswith(b" ")
        self._variables = _template_variables({**special_map, **config})
        self._template = _chat_template(folder, config)
        self._adds_bos = self._reads_adds_bos(config)
        self._added_eos_id = self._reads_added_eos(config)
        self._eos_ids = self._end_tokens(generation)

    @property
    def vocab_size(self) -> int:
        return len(self._token_bytes)

    @property
    def version(self) -> str:
        return "hf byte-level bpe" if self._is_byte_level else "hf sentencepiece bpe"

    @property
    def bos_id(self) -> int | None:
        return self._control_tokens.get(self._variables.get("bos_token", ""))

    @property
    def adds_bos(self) -> bool:
        return self._adds_bos

    @property
    def eos_ids(self) -> frozenset[int]:
        return self._eos_ids

    @property
    def added_eos_id(self) -> int | None:
        return self._added_eos_id

    @property
    def control_tokens(self) -> Mapping[str, int]:
        return self._control_tokens

    @property
    def adds_space_prefix(self) -> bool:
        return self._adds_space_prefix

    @property
    def chat_template(self) -> str | None:
        return self._template

    @property
    def template_variables(self) -> Mapping[str, str]:
        return self._variables

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        bos = [self.bos_id] if add_bos and self.bos_id is not None else []
        return bos + self._encode_text(self._encoder, text)

    def encode_pieces(self, pieces: Sequence[int | str]) -> list[int]:
        """As `tokenizers` encodes the whole string, `lstrip` and `rstrip` of controls included."""
        joined = join_texts(pieces)
        token_ids: list[int] = []
        for at, piece in enumerate(joined):
            if isinstance(piece, int):
                token_ids.append(piece)
                continue
            before, after = joined[at - 1] if at else None, joined[at + 1 : at + 2]
            if isinstance(before, int) and self._added[before].get("rstrip"):
                piece = piece.lstrip()
            if after and isinstance(after[0], int) and self._added[after[0]].get("lstrip"):
                piece = piece.rstrip()
            encoder = self._later_encoder if at else self._encoder
            token_ids += self._encode_text(encoder, piece)
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return decode_tokens(token_ids, self.token_bytes, drop_first_space=self.adds_space_prefix)

    def token_bytes(self, token_id: int) -> bytes:
        return self._token_bytes[token_id]

    def is_control(self, token_id: int) -> bool:
        return token_id in self._control_ids

    def _set_tokens(self, fields: Mapping[str, Any]) -> None:
        """Bytes per id: controls none, added words their own text, pieces by their spelling."""
        model = fields["model"]
        if model.get("type", "BPE") != "BPE":
            raise UnsupportedModelError(
                f"tokenizer.json has a {model['type']} model; Cierzo reads BPE. "
                "Use a model of the Mistral or Llama family."
            )
        self._added = {int(token["id"]): token for token in fields.get("added_tokens") or ()}
        self._control_tokens = {
            str(token["content"]): token_id
            for token_id, token in self._added.items()
            if token["special"]
        }
        self._control_ids = frozenset(self._control_tokens.values())
        unknown_id = self._control_tokens.get(model.get("unk_token") or "")
        self._never_text = self._control_ids - {unknown_id}
        parts = json.dumps([fields.get("pre_tokenizer"), fields.get("decoder")])
        self._is_byte_level = "ByteLevel" in parts
        to_bytes = byte_level_bytes if self._is_byte_level else sentencepiece_bytes
        pieces = {token_id: to_bytes(piece) for piece, token_id in model["vocab"].items()}
        pieces |= {token_id: token["content"].encode() for token_id, token in self._added.items()}
        pieces |= dict.fromkeys(self._control_ids, b"")
        if min(pieces) < 0 or max(pieces) >= MAX_VOCAB_SIZE:
            raise ValueError(f"token ids reach from {min(pieces)} to {max(pieces)}")
        self._token_bytes = [pieces.get(token_id, b"") for token_id in range(max(pieces) + 1)]

    def _encode_text(self, encoder: Encoder, text: str) -> list[int]:
        # A fast batch of one: it leaves out where in the text each token stands.
        token_ids: list[int] = encoder.encode_batch_fast([text], add_special_tokens=False)[0].ids
        if self._never_text.isdisjoint(token_ids):
            return token_ids
        # The file's own merges spell a control token: encode around it, cut in two.
        spelled = [s for s, i in self._control_tokens.items() if i in token_ids and s in text]
        if not spelled:
            return [token_id for token_id in token_ids if token_id not in self._never_text]
        first = min(spelled, key=text.index)
        cut = text.index(first) + max(1, len(first) // 2)
        later = self._later_encoder
        return self._encode_text(encoder, text[:cut]) + self._encode_text(later, text[cut:])

    def _reads_adds_bos(self, config: Mapping[str, Any]) -> bool:
        if isinstance(config.get("add_bos_token"), bool):
            return bool(config["add_bos_token"])
        with_controls = self._encoder.encode("a", add_special_tokens=True).ids
        return self.bos_id is not None and with_controls[:1] == [self.bos_id]

    def _reads_added_eos(self, config: Mapping[str, Any]) -> int | None:
        eos_id = self._control_tokens.get(self._variables.get("eos_token", ""))
        if isinstance(config.get("add_eos_token"), bool):
            return eos_id if config["add_eos_token"] else None
        with_controls = self._encoder.encode("a", add_special_tokens=True).ids
        return eos_id if with_controls[-1:] == [eos_id] else None

    def _end_tokens(self, generation: Mapping[str, Any]) -> frozenset[int]:
        """The configured ends, and every control token that ends a turn in a known family."""
        configured = generation.get("eos_token_id")
        listed = configured if isinstance(configured, list) else [configured]
        ends = {token_id for token_id in listed if type(token_id) is int}
        ends.add(self._control_tokens.get(self._variables.get("eos_token", ""), -1))
        ends |= {i for text, i in self._control_tokens.items() if text in END_OF_TURN_TOKENS}
        return frozenset(i for i in ends if 0 <= i < self.vocab_size)


def _encoder(fields: Mapping[str, Any]) -> Encoder:
    encoder = Encoder.from_str(json.dumps(fields))
    encoder.no_truncation()
    encoder.no_padding()
    encoder.encode_special_tokens = True  # a control token's spelling in a text is text
    return encoder


def _without_first_prefix(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """The file with Metaspace's "first" turned "never", for text after a control token.

    None when nothing changes.
    """
    changed = json.loads(json.dumps(fields.get("pre_tokenizer")))
    steps = changed.get("pretokenizers", [changed]) if isinstance(changed, dict) else []
    first = [step for step in steps if step.get("prepend_scheme") == "first"]
    for step in first:
        step["prepend_scheme"] = "never"
    return {**fields, "pre_tokenizer": changed} if first else None


def _template_variables(config: Mapping[str, Any]) -> dict[str, str]:
    """bos_token and its like; each may be a string or an added-token object."""
    variables: dict[str, str] = {}
    for name in _VARIABLES:
        value = config.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            variables[name] = value
    return variables


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """From chat_template.jinja, which a packed folder has, else where the publisher put it."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    for fields in (_read_object(folder / "chat_template.json", optional=True), config):
        template = chosen_template(fields.get("chat_template"))
        if template is not None:
            return template
    return None


def _read_object(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is not readable JSON: {error}. Fetch it again.") from None
    if not isinstance(fields, dict):
        raise ModelFileError(f"{path} must hold a JSON object, not a {type(fields).__name__}.")
    return fields
