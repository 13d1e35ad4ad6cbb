"""Streamed text is the whole text: no half characters, no lost or added spaces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cierzo.tokenizer.detokenizer import Detokenizer
from cierzo.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.vocabularies import TEXTS, VENDOR_NAMES

NAMES = ("smollm2", "spm", *VENDOR_NAMES)


def _stream(tokenizer: Tokenizer, token_ids: list[int], keep_first_space: bool = False) -> str:
    detokenizer = Detokenizer(tokenizer, keep_first_space=keep_first_space)
    parts = [detokenizer.add(token_id) for token_id in token_ids]
    return "".join(parts) + detokenizer.flush()


@pytest.fixture
def tokenizer(
    request: pytest.FixtureRequest,
    smollm2: Tokenizer,
    spm: Tokenizer,
    vendor_tokenizers: dict[str, Tokenizer],
) -> Tokenizer:
    return {"smollm2": smollm2, "spm": spm, **vendor_tokenizers}[request.param]


@pytest.mark.parametrize("tokenizer", NAMES, indirect=True)
def test_streamed_text_is_the_decoded_text(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        token_ids = tokenizer.encode(text)
        assert _stream(tokenizer, token_ids) == tokenizer.decode(token_ids)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", ("smollm2", "spm-v3", "tekken-v11"))
def test_any_ids_stream_to_their_decoded_text(
    data: st.DataObject, name: str, smollm2: Tokenizer, vendor_tokenizers: dict[str, Tokenizer]
) -> None:
    tokenizer = smollm2 if name == "smollm2" else vendor_tokenizers[name]
    ids = st.lists(st.integers(0, min(tokenizer.vocab_size, 3000) - 1), max_size=40)
    token_ids = data.draw(ids)
    assert _stream(tokenizer, token_ids) == tokenizer.decode(token_ids)


@pytest.mark.parametrize("tokenizer", NAMES, indirect=True)
def test_no_half_character_is_ever_emitted(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer)
    parts = [detokenizer.add(token_id) for token_id in tokenizer.encode("👩‍👩‍👧‍👦 한국어 ½")]
    assert "".join(parts) == "👩‍👩‍👧‍👦 한국어 ½"
    assert not any("\ufffd" in part for part in parts)


def test_first_space_is_dropped_once_and_kept_when_text_goes_on(spm: Tokenizer) -> None:
    token_ids = spm.encode("Paris is")
    assert _stream(spm, token_ids) == "Paris is"
    assert _stream(spm, token_ids, keep_first_space=True) == " Paris is"
    assert _stream(spm, [1, *token_ids, 2]) == "Paris is"
    assert _stream(spm, spm.encode("  two")) == "  two"


def test_unfinished_character_is_replaced_at_the_end(smollm2: Tokenizer) -> None:
    token_ids = smollm2.encode("é")[:1]
    whole = smollm2.encode("\U0001f600")
    assert len(whole) > 1
    detokenizer = Detokenizer(smollm2)
    assert detokenizer.add(whole[0]) in ("", " ")
    assert detokenizer.flush() == "\ufffd"
    assert _stream(smollm2, [*token_ids, *whole[:1]]).endswith("\ufffd")
