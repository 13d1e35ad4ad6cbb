"""Fixtures: tokenizers that several folders' tests share, each built once."""

from __future__ import annotations

import shutil

import pytest

from cierzo.tokenizer.loading import load_tokenizer
from cierzo.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.tekken_files import write_tekken
from tests.tokenizer.vocabularies import (
    SPM_FILES,
    VENDOR_NAMES,
    smollm2_fields,
    spm_gguf_fields,
    write_gguf_vocab,
)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The default model's tokenizer and ChatML template (byte-level BPE from a GGUF)."""
    return load_tokenizer(write_gguf_vocab(tmp_path_factory.mktemp("smollm2"), smollm2_fields()))


@pytest.fixture(scope="session")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A SentencePiece vocabulary from a GGUF."""
    return load_tokenizer(write_gguf_vocab(tmp_path_factory.mktemp("spm"), spm_gguf_fields()))


@pytest.fixture(scope="session")
def vendor_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """Every version of Mistral's own files, by name ("spm-v3", "tekken-v11", …)."""
    tokenizers = {}
    for name in VENDOR_NAMES:
        kind, version = name.split("-")
        folder = tmp_path_factory.mktemp(name)
        if kind == "tekken":
            write_tekken(folder, version)
        else:
            shutil.copy(SPM_FILES[version], folder / f"tokenizer.model.{version}")
        tokenizers[name] = load_tokenizer(folder)
    return tokenizers
