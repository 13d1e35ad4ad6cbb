"""Which files of a repository are needed to run it.

Repositories often hold the same weights two or three times over. One copy is
taken: Hugging Face safetensors first, then Mistral's consolidated files, then one
GGUF. Pickled weights are never taken. Knows names and sizes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import PurePosixPath

from cierzo.errors import ModelNotFoundError, UnsupportedModelError

_COMPANIONS = (
    "config.json",
    "params.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer.model.v*",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "1_Pooling/config.json",
    "LICENSE*",
    "NOTICE*",
)

_GGUF_PREFERENCE = (
    *("Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q6_K", "Q8_0"),
    *("BF16", "F16", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K", "F32"),
)
"""Small enough to be fast, large enough to be good, first."""


def choose_files(repo: str, names: Sequence[str], file: str | None = None) -> list[str]:
    """The files of `repo` to fetch; with `file`, that one (and a tokenizer beside it, unless GGUF).

    Raises ModelNotFoundError when `file` is not there, UnsupportedModelError when the
    repository holds no weights in a format that Cierzo reads.
    """
    if file is not None:
        return _one_file(repo, names, file)
    top = [name for name in names if "/" not in name]
    weights = (
        _safetensors(top)
        or [name for name in top if fnmatch(name, "consolidated*.safetensors")]
        or _gguf(names)
    )
    if not weights:
        raise UnsupportedModelError(
            f"hf:{repo} holds no safetensors and no GGUF file, the formats that Cierzo reads"
            f" (it holds {_listing(names)}); look for a conversion of it"
        )
    return sorted(weights + _companions(names))


def _one_file(repo: str, names: Sequence[str], file: str) -> list[str]:
    if file not in names:
        kind = PurePosixPath(file).suffix
        there = [name for name in names if name.endswith(kind)] if kind else list(names)
        raise ModelNotFoundError(
            f"hf:{repo} has no file {file!r}; it has {_listing(there or names)}"
        )
    if not file.endswith((".gguf", ".safetensors")):
        raise UnsupportedModelError(
            f"{file!r} of hf:{repo} is not a model: name a .gguf or .safetensors file, or the"
            " repository alone"
        )
    if file.endswith(".gguf"):
        return [file]
    return sorted({file, *_companions(names)})


def _safetensors(top: Sequence[str]) -> list[str]:
    if "config.json" not in top:
        return []
    if "model.safetensors.index.json" in top:
        shards = [name for name in top if fnmatch(name, "model-*-of-*.safetensors")]
        return [*shards, "model.safetensors.index.json"] if shards else []
    return ["model.safetensors"] if "model.safetensors" in top else []


def _gguf(names: Sequence[str]) -> list[str]:
    """The best-ranked single-file GGUF; parts of a split one are passed over."""
    whole = [name for name in names if name.endswith(".gguf") and "-of-" not in name]
    for quantization in _GGUF_PREFERENCE:
        for name in sorted(whole):
            if name.upper().removesuffix(".GGUF").endswith(quantization):
                return [name]
    return sorted(whole)[:1]


def _companions(names: Sequence[str]) -> list[str]:
    """Those of the repository's top folder, and the one that lies deeper."""
    return [
        name
        for name in names
        if any(
            name.count("/") == pattern.count("/") and fnmatch(name, pattern)
            for pattern in _COMPANIONS
        )
    ]


def _listing(names: Sequence[str], at_most: int = 12) -> str:
    shown = ", ".join(names[:at_most]) or "nothing"
    return shown + (f", and {len(names) - at_most} more" if len(names) > at_most else "")
