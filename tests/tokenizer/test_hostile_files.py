"""Tokenizer files that once got past the loader: refused there, or read without harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Encoder
from tokenizers.models import BPE

from cierzo.errors import ModelFileError
from cierzo.tokenizer.loading import load_tokenizer
from cierzo.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.tekken_files import tekken_fields
from tests.tokenizer.vocabularies import SPM_FILES

TEMPLATE = {"name": "default", "template": "x"}


def huggingface(folder: Path, config: Any, generation: Any) -> Tokenizer:
    encoder = Encoder(BPE(vocab={"a": 0, "b": 1}, merges=[]))
    encoder.add_tokens([AddedToken("</s>", special=True)])
    (folder / "tokenizer.json").write_text(encoder.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return load_tokenizer(folder)


@pytest.mark.parametrize("eos", [[2, [2], {"a": 1}, None, True, -1, 99, 10**30], 2])
def test_end_tokens_of_any_kind(tmp_path: Path, eos: Any) -> None:
    assert huggingface(tmp_path, {}, {"eos_token_id": eos}).eos_ids == {2}


@pytest.mark.parametrize("entry", [None, 5, [], {"name": ["default"]}, {"name": {}}])
def test_template_entries_of_any_kind(tmp_path: Path, entry: Any) -> None:
    tokenizer = huggingface(tmp_path, {"chat_template": [entry, TEMPLATE]}, {})
    assert tokenizer.chat_template == "x"


def test_template_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"a\xff")
    assert huggingface(tmp_path, {}, {}).chat_template == "a\ufffd"


def without_a_byte(fields: dict[str, Any]) -> None:
    fields["config"] |= {"num_vocab_tokens": 200, "default_vocab_size": 300}


def without_unk(fields: dict[str, Any]) -> None:
    fields["special_tokens"][0]["token_str"] = "<nothing>"


def without_end(fields: dict[str, Any]) -> None:
    fields["special_tokens"][2]["token_str"] = "<nothing>"


@pytest.mark.parametrize(
    ("damage", "named"),
    [(without_a_byte, "256 single bytes"), (without_unk, "<unk>"), (without_end, "</s>")],
)
def test_tekken_that_would_fail_later(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None], named: str
) -> None:
    fields = tekken_fields("v7")
    fields["vocab"] = [dict(word) for word in fields["vocab"][:300]]
    fields["config"] |= {"num_vocab_tokens": 300, "default_vocab_size": 400}
    damage(fields)
    (tmp_path / "tekken.json").write_text(json.dumps(fields))
    with pytest.raises(ModelFileError, match=named):
        load_tokenizer(tmp_path)


def test_sentencepiece_without_an_end(tmp_path: Path) -> None:
    model = SPM_FILES["v3"].read_bytes().replace(b"</s>", b"</x>", 1)
    (tmp_path / "tokenizer.model.v3").write_bytes(model)
    with pytest.raises(ModelFileError, match="lacks <s> or </s>"):
        load_tokenizer(tmp_path)
