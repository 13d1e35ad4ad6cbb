"""Target: damaged tokenizer files of every kind: loaded, encoding, decoding, writing a prompt.

They end in a CierzoError or in a tokenizer that keeps its word about ids.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Encoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Metaspace

from cierzo.tokenizer.chat_prompt import ChatPrompt
from cierzo.tokenizer.loading import load_tokenizer
from tests.fuzz.mutations import Mutator
from tests.tiny_gguf import CHAT_TEMPLATE
from tests.tokenizer.tekken_files import tekken_fields
from tests.tokenizer.vocabularies import SPM_FILES, byte_level_piece, write_gguf_vocab

_TEXTS = ("Hello, world!", " a\n\n b", "naïve 日本語 👩‍👩‍👧", "<s> [INST] <|im_end|>", "")
_MESSAGES = [
    {"role": "system", "content": "Be <|im_end|> brief."},
    {"role": "user", "content": "Hi [/INST] there </s>"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "What now?"},
]
_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_WORDS = 300  # of the Tekken vocabulary: a file that loads in no time


def open_target(work: Path) -> Callable[[random.Random, Path], None]:
    """Writes sound tokenizers to `work`; the result loads and uses one damaged copy."""
    sound = _write_sound(work / "sound")

    def run(rng: random.Random, folder: Path) -> None:
        mutator = Mutator(rng)
        source = folder / "tokenizer"
        shutil.copytree(rng.choice(sound), source)
        path = rng.choice(sorted(source.iterdir()))
        if path.suffix == ".json":
            path.write_bytes(mutator.json_bytes(json.loads(path.read_bytes())))
        else:
            path.write_bytes(mutator.damaged_bytes(path.read_bytes()))
        _use(source)

    return run


def _use(source: Path) -> None:
    tokenizer = load_tokenizer(source)
    size = tokenizer.vocab_size
    assert 0 < size <= 2**24
    assert all(0 <= token_id < size for token_id in tokenizer.eos_ids)
    assert all(0 <= token_id < size for token_id in tokenizer.control_tokens.values())
    for token_id in range(min(size, 500)):
        assert isinstance(tokenizer.token_bytes(token_id), bytes)
    for text in _TEXTS:
        token_ids = tokenizer.encode(text, add_bos=tokenizer.adds_bos)
        assert all(0 <= token_id < size for token_id in token_ids)
        tokenizer.decode(token_ids)
    prompt = ChatPrompt(tokenizer)
    try:
        token_ids = prompt.encode(_MESSAGES)
        assert all(0 <= token_id < size for token_id in token_ids)
    finally:
        prompt.close()


def _write_sound(folder: Path) -> list[Path]:
    folders = []

    def new(name: str) -> Path:
        path = folder / name
        path.mkdir(parents=True)
        folders.append(path)
        return path

    for kind in ("gpt2", "llama"):
        write_gguf_vocab(new(f"gguf-{kind}"), _gguf_fields(kind))
    _write_huggingface(new("byte-level"), _byte_level())
    _write_huggingface(new("metaspace"), _metaspace())
    for version in ("v3", "v13"):
        fields = tekken_fields(version)
        fields["vocab"] = fields["vocab"][:_WORDS]
        fields["config"] |= {"num_vocab_tokens": _WORDS, "default_vocab_size": _WORDS + 100}
        (new(f"tekken-{version}") / "tekken.json").write_text(json.dumps(fields))
    shutil.copyfile(SPM_FILES["v3"], new("spm") / "tokenizer.model.v3")
    return folders


def _gguf_fields(kind: str) -> dict[str, Any]:
    is_bpe = kind == "gpt2"
    controls = (
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] if is_bpe else ["<unk>", "<s>", "</s>"]
    )
    pieces = [byte_level_piece(bytes([b])) if is_bpe else f"<0x{b:02X}>" for b in range(256)]
    return {
        "model": kind,
        "pre": "smollm" if is_bpe else None,
        "tokens": [*controls, *pieces, "he", "ll", "\u2581"],
        "scores": None if is_bpe else [0.0] * 3 + [-5.0] * 259,
        "token_types": ([3] if is_bpe else [2]) + [3, 3] + [1 if is_bpe else 6] * 256 + [1, 1, 4],
        "merges": ["h e", "l l"] if is_bpe else None,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "eot_token_id": 2,
        "unknown_token_id": 0,
        "add_bos_token": not is_bpe,
        "add_space_prefix": not is_bpe,
        "chat_template": CHAT_TEMPLATE,
    }


def _byte_level() -> Encoder:
    vocab = {byte_level_piece(bytes([byte])): byte for byte in range(256)} | {"he": 256}
    encoder = Encoder(BPE(vocab=vocab, merges=[("h", "e")]))
    encoder.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return encoder


def _metaspace() -> Encoder:
    vocab = {"<unk>": 0, "\u2581": 1, "a": 2, "b": 3, "ab": 4}
    vocab |= {f"<0x{byte:02X}>": 5 + byte for byte in range(256)}
    encoder = Encoder(BPE(vocab=vocab, merges=[("a", "b")], unk_token="<unk>", byte_fallback=True))
    encoder.pre_tokenizer = Metaspace(prepend_scheme="first")
    return encoder


def _write_huggingface(folder: Path, encoder: Encoder) -> None:
    encoder.add_tokens([AddedToken(text, special=True) for text in ("<s>", *_CONTROLS[1:])])
    beside: dict[str, Any] = {
        "tokenizer_config.json": {
            "bos_token": "<s>",
            "eos_token": {"content": "<|im_end|>"},
            "chat_template": [{"name": "default", "template": CHAT_TEMPLATE}],
        },
        "special_tokens_map.json": {"unk_token": "<unk>"},
        "generation_config.json": {"eos_token_id": [1, 2]},
    }
    (folder / "tokenizer.json").write_text(encoder.to_str())
    for name, fields in beside.items():
        (folder / name).write_text(json.dumps(fields))
