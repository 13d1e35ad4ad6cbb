"""GGUF vocabularies against the encoders they came from."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from cierzo.tokenizer.tokenizer import Tokenizer, load_tokenizer
from tests.tokenizer.vocabularies import (
    SPM_FILES,
    TEXTS,
    spm_gguf_fields,
    write_gguf_vocab,
)


@pytest.fixture(scope="module")
def spm(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_gguf_vocab(tmp_path_factory.mktemp("spm"), spm_gguf_fields()))


@pytest.fixture(scope="module")
def truth() -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(SPM_FILES["v1"]))


@pytest.mark.parametrize("text", TEXTS)
def test_spm_ids_are_sentencepiece_ids(
    spm: Tokenizer, truth: SentencePieceProcessor, text: str
) -> None:
    assert spm.encode(text) == truth.encode(text)
    assert spm.decode(spm.encode(text)) == truth.decode(truth.encode(text))


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_spm_ids_are_sentencepiece_ids_for_any_text(
    spm: Tokenizer, truth: SentencePieceProcessor, text: str
) -> None:
    assert spm.encode(text) == truth.encode(text)
