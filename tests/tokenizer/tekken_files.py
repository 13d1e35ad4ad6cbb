"""Tekken files of every version: the shipped vocabulary under a newer version's special tokens."""

from __future__ import annotations

import base64
import json
from functools import cache
from pathlib import Path
from typing import Any

from mistral_common.tokens.tokenizers.base import SpecialTokens
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from tests.tokenizer.vocabularies import TEKKEN_FILE, byte_level_piece, merges_from_ranks

_NEWER = {
    SpecialTokens.args: 11,
    SpecialTokens.call_id: 11,
    SpecialTokens.begin_think: 13,
    SpecialTokens.end_think: 13,
    SpecialTokens.begin_model_settings: 15,
    SpecialTokens.end_model_settings: 15,
}
"""Special tokens that the shipped file lacks, and the version that brings them."""

N_SPECIAL = 100
N_WORDS = 6000
"""Words kept of the shipped 150 000, so that a file loads in a moment."""


@cache
def _shipped() -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(TEKKEN_FILE.read_text(encoding="utf-8"))
    return fields


def tekken_fields(version: str) -> dict[str, Any]:
    """The content of a small tekken.json of `version` ("v3" … "v15")."""
    shipped = _shipped()
    special = [dict(token) for token in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    newer = [token for token, since in _NEWER.items() if since <= int(version[1:])]
    special += [
        {"rank": len(special) + i, "token_str": str(token), "is_control": True}
        for i, token in enumerate(newer)
    ]
    config = dict(shipped["config"], version=version, default_num_special_tokens=N_SPECIAL)
    config |= {"num_vocab_tokens": N_WORDS, "default_vocab_size": N_WORDS + N_SPECIAL}
    fields = {"config": config, "vocab": shipped["vocab"][:N_WORDS], "special_tokens": special}
    if version == "v15":
        fields["model_settings_builder"] = {
            "reasoning_effort": {
                "type": "enum",
                "accepts_none": True,
                "default": "none",
                "values": ["none", "high"],
            }
        }
    return fields


def write_tekken(folder: Path, version: str) -> Path:
    """A folder holding tekken.json of `version`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tekken.json").write_text(json.dumps(tekken_fields(version)), encoding="utf-8")
    return folder


def tekken_ranks(version: str) -> dict[bytes, int]:
    """The words of `tekken_fields` and their ranks."""
    words = tekken_fields(version)["vocab"]
    return {base64.b64decode(word["token_bytes"]): rank for rank, word in enumerate(words)}


@cache
def tekken_gguf_fields(version: str) -> dict[str, Any]:
    """The same vocabulary in the layout of gguf_vocab.json, as llama.cpp converts it."""
    special = [token["token_str"] for token in tekken_fields(version)["special_tokens"]]
    special += [f"<SPECIAL_{i}>" for i in range(len(special), N_SPECIAL)]
    ranks = tekken_ranks(version)
    return {
        "model": "gpt2",
        "pre": "tekken",
        "tokens": [*special, *map(byte_level_piece, ranks)],
        "token_types": [3] * N_SPECIAL + [1] * len(ranks),
        "merges": merges_from_ranks(ranks),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "add_bos_token": True,
    }
