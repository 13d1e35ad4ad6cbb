"""Fill-in-the-middle order, where a vocabulary has it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mistral_common.protocol.fim.request import FIMRequest

from cierzo.errors import UnsupportedRequestError
from cierzo.tokenizer.fim_prompt import can_fill_in, encode_fim, fim_stop_ids
from cierzo.tokenizer.loading import load_tokenizer
from cierzo.tokenizer.mistral_tokenizer import MistralFileTokenizer
from cierzo.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.vocabularies import (
    TEKKEN_FILE,
    TEXTS,
    VENDOR_NAMES,
    smollm2_fields,
    spm_gguf_fields,
    write_gguf_vocab,
)

WITH_FIM = [name for name in VENDOR_NAMES if not name.endswith(("-v1", "-v2"))]
CODE = (*TEXTS, "(self):\n", "):pass", "return 1", "\n\n    x")


@pytest.fixture(scope="module")
def whole_tekken(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """With all its words, of which the vendor's way of encoding a suffix needs one."""
    folder = tmp_path_factory.mktemp("tekken")
    shutil.copy(TEKKEN_FILE, folder / "tekken.json")
    return load_tokenizer(folder)


@pytest.mark.parametrize("name", ["spm-v3", "spm-v7", "spm-v7m1", "tekken"])
def test_every_vocabulary_encodes_as_the_vendor_does(
    vendor_tokenizers: dict[str, Tokenizer], whole_tekken: Tokenizer, name: str
) -> None:
    tokenizer = vendor_tokenizers.get(name, whole_tekken)
    assert isinstance(tokenizer, MistralFileTokenizer)
    for prompt, suffix in zip(CODE, CODE[::-1], strict=True):
        expected = tokenizer.vendor.encode_fim(FIMRequest(prompt=prompt, suffix=suffix)).tokens
        assert encode_fim(tokenizer, prompt, suffix) == expected


@pytest.mark.parametrize("name", WITH_FIM)
def test_every_version_has_one_order(vendor_tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = vendor_tokenizers[name]
    assert isinstance(tokenizer, MistralFileTokenizer)
    expected = tokenizer.vendor.encode_fim(FIMRequest(prompt="x = ", suffix="")).tokens
    assert encode_fim(tokenizer, "x = ") == expected
    assert can_fill_in(tokenizer)


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


def test_code_llama(tmp_path: Path) -> None:
    """Its files call the four tokens normal; a text must not spell them all the same."""
    fields = dict(spm_gguf_fields())
    names = ["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]
    n_words = len(fields["tokens"])
    fields["tokens"] = [*fields["tokens"], *names]
    fields["scores"] = [*fields["scores"], 0.0, 0.0, 0.0, 0.0]
    fields["token_types"] = [*fields["token_types"], 1, 1, 1, 1]
    tokenizer = load_tokenizer(write_gguf_vocab(tmp_path, fields))
    pre, suf, mid, eot = range(n_words, n_words + 4)
    token_ids = encode_fim(tokenizer, "def f(", "): pass <PRE> <MID>")
    at = token_ids.index(suf)
    assert token_ids[:2] == [tokenizer.bos_id, pre] and token_ids[-1] == mid
    assert token_ids[2:at] == tokenizer.encode("def f(")
    inside = b"".join(tokenizer.token_bytes(i) for i in token_ids[at + 1 : -1])
    assert inside == b"): pass <PRE> <MID>"
    assert fim_stop_ids(tokenizer) == tokenizer.eos_ids | {eot}


@pytest.mark.parametrize(
    "names",
    [
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<file_sep>"),
        ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"),
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<|fim_pad|>"),
    ],
)
def test_prefix_suffix_middle(tmp_path: Path, names: tuple[str, ...]) -> None:
    fields = dict(smollm2_fields())
    n_words = len(fields["tokens"])
    known = [name for name in names if name in fields["tokens"]]
    new = [name for name in names if name not in known]
    fields["tokens"] = [*fields["tokens"], *new]
    fields["token_types"] = [*fields["token_types"], *(3 for _ in new)]
    tokenizer = load_tokenizer(write_gguf_vocab(tmp_path, fields))
    assert n_words + len(new) == tokenizer.vocab_size
    pre, suf, mid, end = (tokenizer.control_tokens[name] for name in names)
    expected = [pre, *tokenizer.encode("a = "), suf, *tokenizer.encode(" + 1"), mid]
    assert encode_fim(tokenizer, "a = ", " + 1") == expected
    assert end in fim_stop_ids(tokenizer)


def test_models_without_the_tokens_are_refused(
    vendor_tokenizers: dict[str, Tokenizer], smollm2: Tokenizer
) -> None:
    for tokenizer in (vendor_tokenizers["spm-v1"], vendor_tokenizers["spm-v2"], smollm2):
        assert not can_fill_in(tokenizer)
        with pytest.raises(UnsupportedRequestError, match="fill in the middle"):
            encode_fim(tokenizer, "a", "b")
