"""Writes gold/smollm2.json from the default model's packed folder.

Run as: python -m tests.tokenizer.make_gold FOLDER

The gold file keeps only the pieces and merges that can occur in its texts. A merge that
occurs in no text never applies, so the small vocabulary encodes these texts as the whole one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cierzo.tokenizer.loading import load_tokenizer
from cierzo.tokenizer.token_bytes import byte_level_bytes
from tests.tokenizer.vocabularies import TEXTS

GOLD_FILE = Path(__file__).parent / "gold" / "smollm2.json"
_CONVERSATION = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    "<|im_start|>assistant\nParis.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
)


def make_gold(folder: Path) -> dict[str, Any]:
    """Pieces and merges that the texts can use, and the ids of each text."""
    vocab = json.loads((folder / "gguf_vocab.json").read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(folder)
    corpus = "\n".join([*TEXTS, _CONVERSATION]).encode()
    control = {i for i, token_type in enumerate(vocab["token_types"]) if token_type == 3}
    pieces = {
        i: token
        for i, token in enumerate(vocab["tokens"])
        if i in control or len(token) == 1 or byte_level_bytes(token) in corpus
    }
    kept = set(pieces.values())
    merges = [merge for merge in vocab["merges"] if merge.replace(" ", "") in kept]
    merges = [merge for merge in merges if kept.issuperset(merge.split(" "))]
    others = {key: value for key, value in vocab.items() if not isinstance(value, list)}
    return {
        "vocab": others,
        "vocab_size": len(vocab["tokens"]),
        "control": sorted(control),
        "pieces": pieces,
        "merges": merges,
        "ids": {text: tokenizer.encode(text) for text in [*TEXTS, _CONVERSATION]},
    }


if __name__ == "__main__":
    gold = json.dumps(make_gold(Path(sys.argv[1])), ensure_ascii=True, indent=0)
    GOLD_FILE.write_text(gold + "\n", encoding="utf-8")
