"""GGUF vocabularies against the encoders they came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.tokenizer.loading import load_tokenizer
from cierzo.tokenizer.pretokenizers import WORD_RULES
from cierzo.tokenizer.token_bytes import byte_level_bytes
from cierzo.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.tekken_files import N_SPECIAL, tekken_fields, tekken_gguf_fields, tekken_ranks
from tests.tokenizer.vocabularies import (
    SPM_FILES,
    TEXTS,
    smollm2_fields,
    smollm2_gold,
    spm_gguf_fields,
    write_gguf_vocab,
)


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
@given(text=st.text())
def test_spm_ids_are_sentencepiece_ids_for_any_text(
    spm: Tokenizer, truth: SentencePieceProcessor, text: str
) -> None:
    assert spm.encode(text) == truth.encode(text)


def test_spm_pieces_get_one_space_and_never_two(spm: Tokenizer) -> None:
    end = spm.control_tokens["</s>"]
    once = [*spm.encode("[INST] hi", add_bos=True), end, *spm.encode("more")]
    assert spm.encode_pieces([1, "[INST] hi", end, "more"]) == once
    assert spm.encode_pieces([1, " [INST]", " hi", end, " more"]) == once


def test_spm_prompt_begins_with_bos_where_the_file_asks_for_it(
    spm: Tokenizer, tmp_path: Path
) -> None:
    assert spm.encode_pieces(["hi"]) == [1, *spm.encode("hi")]
    fields = dict(spm_gguf_fields(), add_bos_token=False)
    without = load_tokenizer(write_gguf_vocab(tmp_path, fields))
    assert without.encode_pieces(["hi"]) == spm.encode("hi")


def test_bpe_ids_are_tiktoken_ids(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_gguf_vocab(tmp_path, tekken_gguf_fields("v7")))
    encoding = tiktoken.Encoding(
        "tekken",
        pat_str=tekken_fields("v7")["config"]["pattern"],
        mergeable_ranks=tekken_ranks("v7"),
        special_tokens={},
    )
    for text in TEXTS:
        assert tokenizer.encode(text) == [N_SPECIAL + rank for rank in encoding.encode(text)], text
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_default_model_ids_are_the_gold_ids(smollm2: Tokenizer) -> None:
    for text, token_ids in smollm2_gold()["ids"].items():
        assert smollm2.encode(text) == token_ids, text
        assert smollm2.decode(token_ids) == text


def test_default_model_gold_ids_are_tiktoken_ids() -> None:
    """An independent reading of the same vocabulary: one pattern, ranks instead of merges."""
    gold = smollm2_gold()
    ranks = {
        byte_level_bytes(piece): int(token_id)
        for token_id, piece in gold["pieces"].items()
        if int(token_id) not in gold["control"]
    }
    pattern = (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"
        r"|\s+(?=\p{N})|\s+(?!\S)|\s+"
    )
    encoding = tiktoken.Encoding(
        "smollm2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
    )
    for text, token_ids in gold["ids"].items():
        assert encoding.encode(text) == token_ids, text


def test_no_text_becomes_a_control_token(smollm2: Tokenizer, spm: Tokenizer) -> None:
    for tokenizer in (smollm2, spm):
        for spelling in tokenizer.control_tokens:
            ids = tokenizer.encode(f"a{spelling} {spelling}")
            assert not any(tokenizer.is_control(token_id) for token_id in ids), spelling


def test_control_tokens_have_no_bytes_and_end_of_turn_ends(smollm2: Tokenizer) -> None:
    assert smollm2.token_bytes(1) == b"" and smollm2.is_control(1)
    assert smollm2.eos_ids == {0, 2}
    assert smollm2.version == "gguf gpt2/smollm"


def test_user_defined_tokens_are_found_in_text_and_are_text(tmp_path: Path) -> None:
    fields = smollm2_fields()
    fields["tokens"][100] = "<tool_call>"
    fields["token_types"][100] = 4
    tokenizer = load_tokenizer(write_gguf_vocab(tmp_path, fields))
    assert tokenizer.encode("<tool_call> a")[0] == 100
    assert tokenizer.token_bytes(100) == b"<tool_call>"


@pytest.mark.parametrize("name", sorted(WORD_RULES))
def test_every_known_pre_tokenizer_keeps_the_text(name: str, tmp_path: Path) -> None:
    fields = dict(smollm2_fields(), pre=name)
    tokenizer = load_tokenizer(write_gguf_vocab(tmp_path, fields))
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_pre_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'unheard-of'.*smollm"):
        load_tokenizer(write_gguf_vocab(tmp_path, dict(smollm2_fields(), pre="unheard-of")))


def test_unknown_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="'bert'"):
        load_tokenizer(write_gguf_vocab(tmp_path, dict(smollm2_fields(), model="bert")))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tokens": []}, "tokens"),
        ({"tokens": None}, "tokens"),
        ({"token_types": [1, 2]}, "token_types"),
        ({"merges": ["abc"]}, "merges"),
        ({"merges": [5]}, "merges"),
        ({"bos_token_id": 10**9}, "bos_token_id"),
        ({"eos_token_id": "2"}, "eos_token_id"),
        ({"chat_template": 3}, "chat_template"),
        ({"model": "llama", "token_types": [99] * 49152}, "does not build"),
        ({"model": "llama", "scores": [1e400] * 49152}, "does not build"),
        ({"model": "llama", "scores": None, "token_types": [1] * 49152}, "does not build"),
    ],
)
def test_damaged_vocabulary_names_what_is_wrong(
    change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=named):
        load_tokenizer(write_gguf_vocab(tmp_path, {**smollm2_fields(), **change}))


def test_truncated_file_is_a_model_file_error(tmp_path: Path) -> None:
    whole = json.dumps(smollm2_fields())
    (tmp_path / "gguf_vocab.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match="not readable JSON"):
        load_tokenizer(tmp_path)


def test_folder_without_tokenizer_lists_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"tekken\.json.*gguf_vocab\.json.*tokenizer\.json"):
        load_tokenizer(tmp_path)
