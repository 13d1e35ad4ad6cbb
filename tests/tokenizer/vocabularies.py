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
VENDOR_NAMES = tuple(f"spm-{v}" for v in SPM_FILES) + tuple(
    f"tekken-{v}" for v in ("v3", "v7", "v11", "v13", "v15")
)

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


GOLD = Path(__file__).parent / "gold" / "smollm2.json"


@cache
def smollm2_gold() -> dict[str, Any]:
    """Part of the default model's vocabulary, and its ids of some texts (see make_gold.py)."""
    gold: dict[str, Any] = json.loads(GOLD.read_text(encoding="utf-8"))
    return gold


def smollm2_fields() -> dict[str, Any]:
    """The default model's vocabulary, pieces that the gold texts cannot use left unused."""
    gold = smollm2_gold()
    pieces = {int(token_id): piece for token_id, piece in gold["pieces"].items()}
    ids = range(gold["vocab_size"])
    return {
        **gold["vocab"],
        "tokens": [pieces.get(i, f"unused {i}") for i in ids],
        "token_types": [3 if i in gold["control"] else 1 if i in pieces else 5 for i in ids],
        "merges": gold["merges"],
    }


def byte_level_piece(data: bytes) -> str:
    """Bytes in byte-level BPE's spelling, by GPT-2's published rule."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return "".join(chr(b) if b in printable else chr(0x100 + others.index(b)) for b in data)


def merges_from_ranks(ranks: dict[bytes, int]) -> list[str]:
    """The merge list of a vocabulary that is ordered by merge: each token's two last parts."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            pairs = [ranks.get(a + b, rank) for a, b in zip(parts, parts[1:], strict=False)]
            best = min(pairs)
            if best >= rank:
                break
            at = pairs.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            merges.append(" ".join(map(byte_level_piece, parts)))
    return merges
