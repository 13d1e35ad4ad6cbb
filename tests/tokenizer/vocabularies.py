"""Vocabularies for tests, all derived from the real ones that mistral-common ships."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import mistral_common
from sentencepiece import SentencePieceProcessor

VENDOR_DATA = Path(mistral_common.__file__).parent / "data"
SPM_FILES = {
    "v1": VENDOR_DATA / "tokenizer.model.v1",
    "v2": VENDOR_DATA / "mistral_instruct_tokenizer_240216.model.v2",
    "v3": VENDOR_DATA / "mistral_instruct_tokenizer_240323.model.v3",
    "v7": VENDOR_DATA / "mistral_instruct_tokenizer_241114.model.v7",
    "v7m1": VENDOR_DATA / "mistral_instruct_tokenizer_241114.model.v7m1",
}
TEKKEN_FILE = VENDOR_DATA / "tekken_240718.json"

TEXTS = (
    "",
    " ",
    "Hello, world!",
    " a",
    "  two  spaces  ",
    "a\n\n\tb\r\n",
    "    def f(x):\n        return x + 12345\n",
    "Der Wind heißt Cierzo. ¿Qué tal? Ça va, naïve café?",
    "日本語のテキストと한국어",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301",
    "don't I'LL we've 3.14159 1,000,000 ½ ²",
    "<s> </s> [INST] [/INST] <|im_end|> <unk> <0x0A> [TOOL_CALLS]",
    "\u2581already marked\u2581",
    "a" * 50 + " " * 17 + "\x00\x7f\ufeff",
)


@cache
def spm_gguf_fields(version: str = "v1") -> dict[str, Any]:
    """A shipped SentencePiece vocabulary in the layout of gguf_vocab.json."""
    processor = SentencePieceProcessor(model_file=str(SPM_FILES[version]))
    ids = range(processor.vocab_size())
    return {
        "model": "llama",
        "pre": None,
        "tokens": [processor.id_to_piece(i) for i in ids],
        "scores": [processor.get_score(i) for i in ids],
        "token_types": [_token_type(processor, i) for i in ids],
        "merges": None,
        "bos_token_id": processor.bos_id(),
        "eos_token_id": processor.eos_id(),
        "unknown_token_id": processor.unk_id(),
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": True,
        "chat_template": None,
    }


def write_gguf_vocab(folder: Path, fields: dict[str, Any]) -> Path:
    """`fields` as a packed folder's gguf_vocab.json; returns the folder."""
    (folder / "gguf_vocab.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def _token_type(processor: SentencePieceProcessor, token_id: int) -> int:
    if processor.IsUnknown(token_id):
        return 2
    if processor.IsControl(token_id):
        return 3
    if processor.IsByte(token_id):
        return 6
    return 1
