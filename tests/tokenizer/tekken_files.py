"""Tekken files of every version: the shipped vocabulary under a newer version's special tokens."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from mistral_common.tokens.tokenizers.base import SpecialTokens
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from tests.tokenizer.vocabularies import TEKKEN_FILE

_NEWER = (
    SpecialTokens.args,
    SpecialTokens.call_id,
    SpecialTokens.begin_think,
    SpecialTokens.end_think,
    SpecialTokens.begin_model_settings,
    SpecialTokens.end_model_settings,
)
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
    special += [
        {"rank": len(special) + i, "token_str": str(token), "is_control": True}
        for i, token in enumerate(_NEWER)
    ]
    config = dict(shipped["config"], version=version, default_num_special_tokens=100)
    config |= {"num_vocab_tokens": N_WORDS, "default_vocab_size": N_WORDS + 100}
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
