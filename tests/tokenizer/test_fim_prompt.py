"""Fill-in-the-middle order, where a version has it."""

from __future__ import annotations

import pytest

from cierzo.errors import UnsupportedRequestError
from cierzo.tokenizer.fim_prompt import encode_fim
from cierzo.tokenizer.tokenizer import Tokenizer


@pytest.mark.parametrize("name", ["spm-v3", "spm-v7"])
def test_suffix_comes_first_and_without_a_made_up_space(
    vendor_tokenizers: dict[str, Tokenizer], name: str
) -> None:
    tokenizer = vendor_tokenizers[name]
    controls = tokenizer.control_tokens
    token_ids = encode_fim(tokenizer, "def f(", "): pass </s>[PREFIX]")
    middle = token_ids.index(controls["[PREFIX]"])
    assert token_ids[:2] == [tokenizer.bos_id, controls["[SUFFIX]"]]
    suffix = b"".join(tokenizer.token_bytes(i) for i in token_ids[2:middle])
    assert suffix == b"): pass </s>[PREFIX]"
    assert token_ids[middle + 1 :] == tokenizer.encode("def f(")


def test_models_without_the_tokens_are_refused(
    vendor_tokenizers: dict[str, Tokenizer], smollm2: Tokenizer
) -> None:
    for tokenizer in (vendor_tokenizers["spm-v1"], vendor_tokenizers["spm-v2"], smollm2):
        with pytest.raises(UnsupportedRequestError, match="fill-in-the-middle"):
            encode_fim(tokenizer, "a", "b")
