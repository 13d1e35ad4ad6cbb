"""tokenizer.json folders: ids, control tokens, templates and the files beside them."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken
from tokenizers import Tokenizer as Encoder
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, Metaspace
from tokenizers.processors import TemplateProcessing

from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.tokenizer.chat_prompt import ChatPrompt
from cierzo.tokenizer.loading import load_tokenizer
from cierzo.tokenizer.tokenizer import Tokenizer, encode_whole
from tests.tokenizer.tekken_files import tekken_fields
from tests.tokenizer.vocabularies import SPM_FILES, TEXTS, smollm2_gold, spm_gguf_fields

CONTROLS = ["<|begin|>", "<|im_start|>", "<|im_end|>", "</think>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
USER = {"role": "user", "content": " Hello <|im_end|> there "}


def _byte_level() -> Encoder:
    gold = smollm2_gold()
    pieces = [p for i, p in gold["pieces"].items() if int(i) not in gold["control"]]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge.split(" ")) for merge in gold["merges"]]
    encoder = Encoder(BPE(vocab=vocab, merges=merges))
    encoder.pre_tokenizer = ByteLevel(add_prefix_space=False)
    controls = [AddedToken(text, special=True) for text in CONTROLS]
    encoder.add_tokens([*controls, AddedToken("<tool_call>", special=False)])
    return encoder


def _write(folder: Path, encoder: Encoder, **config: Any) -> Path:
    (folder / "tokenizer.json").write_text(encoder.to_str(), encoding="utf-8")
    fields = {"bos_token": "<|begin|>", "eos_token": {"content": "<|im_end|>"}, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("byte-level")
    return load_tokenizer(_write(folder, _byte_level(), chat_template=TEMPLATE))


def test_ids_and_text_are_the_librarys(byte_level: Tokenizer) -> None:
    truth = _byte_level()
    for text in TEXTS:
        if "<|" not in text:
            assert byte_level.encode(text) == truth.encode(text).ids
        assert byte_level.decode(byte_level.encode(text)) == text


def test_control_tokens_come_from_the_template_alone(byte_level: Tokenizer) -> None:
    start, end = (byte_level.control_tokens[text] for text in CONTROLS[1:3])
    prompt = ChatPrompt(byte_level).encode([USER])
    controls = [token_id for token_id in prompt if byte_level.is_control(token_id)]
    assert controls == [byte_level.bos_id, start, end, start]
    assert byte_level.decode(prompt) == "user\n Hello <|im_end|> there \nassistant\n"


def test_prompt_without_markup_is_what_the_library_makes_of_the_string(
    byte_level: Tokenizer,
) -> None:
    prompt = ChatPrompt(byte_level).encode([{"role": "user", "content": "é don't 12 "}])
    rendered = "<|begin|><|im_start|>user\né don't 12 <|im_end|>\n<|im_start|>assistant\n"
    assert prompt == _byte_level().encode(rendered).ids


def test_lstrip_and_rstrip_of_controls_are_kept(tmp_path: Path) -> None:
    encoder = _byte_level()
    encoder.add_tokens([AddedToken("<|trim|>", special=True, lstrip=True, rstrip=True)])
    template = "{{ messages[0].content }} <|trim|> \n{{ messages[0].content }}"
    tokenizer = load_tokenizer(_write(tmp_path, encoder, chat_template=template))
    prompt = ChatPrompt(tokenizer).encode([{"role": "user", "content": "the"}])
    assert prompt == encoder.encode("the <|trim|> \nthe").ids
    assert len(prompt) == 3


def test_added_words_are_text(byte_level: Tokenizer) -> None:
    token_id = byte_level.encode("<tool_call>")[0]
    assert byte_level.token_bytes(token_id) == b"<tool_call>"
    assert not byte_level.is_control(token_id)


def test_ends_come_from_every_file(tmp_path: Path) -> None:
    _write(tmp_path, _byte_level())
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 5]}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.eos_ids == {3, 5, tokenizer.control_tokens["<|im_end|>"]}


def test_bos_of_plain_text_follows_the_post_processor_or_the_config(tmp_path: Path) -> None:
    encoder = _byte_level()
    assert load_tokenizer(_write(tmp_path, encoder)).adds_bos is False
    bos = ("<|begin|>", encoder.token_to_id("<|begin|>"))
    encoder.post_processor = TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A $B", special_tokens=[bos]
    )
    assert load_tokenizer(_write(tmp_path, encoder)).adds_bos is True
    assert load_tokenizer(_write(tmp_path, encoder, add_bos_token=False)).adds_bos is False


def test_plain_text_ends_as_the_post_processor_or_the_config_says(tmp_path: Path) -> None:
    encoder = _byte_level()
    tokenizer = load_tokenizer(_write(tmp_path, encoder, eos_token="<|im_end|>"))
    assert tokenizer.added_eos_id is None
    assert encode_whole(tokenizer, "the") == tokenizer.encode("the")
    end = encoder.token_to_id("<|im_end|>")
    asked = load_tokenizer(_write(tmp_path, encoder, eos_token="<|im_end|>", add_eos_token=True))
    assert encode_whole(asked, "the") == [*asked.encode("the"), end]
    encoder.post_processor = TemplateProcessing(
        single="$A <|im_end|>", pair="$A $B <|im_end|>", special_tokens=[("<|im_end|>", end)]
    )
    assert load_tokenizer(_write(tmp_path, encoder, eos_token="<|im_end|>")).added_eos_id == end


@pytest.mark.parametrize("source", ["chat_template.jinja", "chat_template.json", "list"])
def test_template_is_found_wherever_it_is(tmp_path: Path, source: str) -> None:
    named = [{"name": "other", "template": "o"}, {"name": "default", "template": "t"}]
    _write(tmp_path, _byte_level(), **({"chat_template": named} if source == "list" else {}))
    if source.endswith(".jinja"):
        (tmp_path / source).write_text("t")
    if source.endswith(".json"):
        (tmp_path / source).write_text('{"chat_template": "t"}')
    assert load_tokenizer(tmp_path).chat_template == "t"


@pytest.mark.parametrize(
    ("named", "template"),
    [
        ([{"name": "other", "template": "o"}], "o"),
        ([{"name": "other", "template": "o"}, {"name": "third", "template": "t"}], None),
        ([], None),
    ],
)
def test_of_several_templates_without_a_default_none_counts(
    tmp_path: Path, named: list[dict[str, str]], template: str | None
) -> None:
    _write(tmp_path, _byte_level(), chat_template=named)
    (tmp_path / "chat_template.json").write_text("{}")
    assert load_tokenizer(tmp_path).chat_template == template


def test_newest_version_of_a_sentencepiece_file_counts(tmp_path: Path) -> None:
    for version in ("v7", "v11"):
        shutil.copy(SPM_FILES["v7"], tmp_path / f"tokenizer.model.{version}")
    assert load_tokenizer(tmp_path).version == "spm v11"


@cache
def _merges_by_score() -> list[tuple[str, str]]:
    fields = spm_gguf_fields("v1")
    vocab = {piece: i for i, piece in enumerate(fields["tokens"])}
    merges = []
    for piece, i in vocab.items():
        if fields["token_types"][i] == 1:
            splits = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
            known = [split for split in splits if split[0] in vocab and split[1] in vocab]
            merges += [(i, *split) for split in known]
    return [(left, right) for _, left, right in sorted(merges, key=lambda merge: merge[0])]


def _sentencepiece_like(scheme: str) -> Encoder:
    """The shipped v1 vocabulary as Hugging Face converts it: merges by score, byte fallback."""
    vocab = {piece: i for i, piece in enumerate(spm_gguf_fields("v1")["tokens"])}
    pairs = _merges_by_score()
    encoder = Encoder(
        BPE(vocab=vocab, merges=pairs, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    encoder.pre_tokenizer = Metaspace(prepend_scheme=scheme, split=False)
    encoder.add_special_tokens(["<unk>", "<s>", "</s>"])
    return encoder


def test_sentencepiece_like_file_gives_sentencepiece_ids(tmp_path: Path) -> None:
    truth = SentencePieceProcessor(model_file=str(SPM_FILES["v1"]))
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = load_tokenizer(_write(tmp_path, _sentencepiece_like("first"), **config))
    assert tokenizer.adds_space_prefix and tokenizer.version == "hf sentencepiece bpe"
    for text in ("Hello, world!", "a\n\n\tb", "héllo 日本語 👩‍👩‍👧‍👦", "</s> <s>"):
        assert tokenizer.encode(text) == truth.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    end = tokenizer.control_tokens["</s>"]
    # "first" puts a space before the first segment only.
    assert tokenizer.encode_pieces(["Hello", end, "Hello"])[-1] != tokenizer.encode("Hello")[0]


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_space_prefix_in_prompts_is_the_librarys(tmp_path: Path, scheme: str) -> None:
    encoder = _sentencepiece_like(scheme)
    template = "{{ bos_token }}[INST] {{ messages[0].content }} [/INST]{{ eos_token }}more"
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    tokenizer = load_tokenizer(_write(tmp_path, encoder, **config))
    prompt = ChatPrompt(tokenizer).encode([{"role": "user", "content": "Hello"}])
    assert prompt == encoder.encode("<s>[INST] Hello [/INST]</s>more").ids
    assert tokenizer.adds_space_prefix == (scheme != "never")


def test_other_models_are_refused_by_name(tmp_path: Path) -> None:
    words = Encoder(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(UnsupportedModelError, match="WordLevel"):
        load_tokenizer(_write(tmp_path, words))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"model": 3}',
        '{"model": {"vocab": {"a": "b"}}}',
        '{"model": {"vocab": {"a": 9999999999999}, "merges": []}}',
        '{"model": {"vocab": {"a": -1}, "merges": []}}',
    ],
)
def test_damaged_file_is_a_model_file_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_tekken_file_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    fields = tekken_fields("v7")
    fields["config"]["default_num_special_tokens"] = 10**12
    (tmp_path / "tekken.json").write_text(json.dumps(fields))
    with pytest.raises(ModelFileError, match="default_num_special_tokens is 1000000000000"):
        load_tokenizer(tmp_path)


def test_tekken_file_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text(json.dumps(tekken_fields("v99")))
    with pytest.raises(ModelFileError, match="v99"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tekken.json", "tokenizer.model.v3", "tokenizer.model.v99"])
def test_damaged_vendor_file_is_a_model_file_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x00\x01 not a tokenizer")
    with pytest.raises(ModelFileError, match=name):
        load_tokenizer(tmp_path)


def test_vendor_file_wins_over_the_conversion(tmp_path: Path) -> None:
    _write(tmp_path, _byte_level())
    (tmp_path / "tokenizer.model.v3").write_bytes(SPM_FILES["v3"].read_bytes())
    assert load_tokenizer(tmp_path).version == "spm v3"
