"""The vendor's Jinja templates through our template path, against the vendor's own token ids.

Two independent ways to one prompt: a GGUF vocabulary with the template that mistral-common
writes for it, and the vendor's tokenizer file. Conversations in which the template itself
departs from the vendor's code (white space before </s>, JSON results, results out of order,
version 15's chunks) are left out.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from mistral_common.integrations.chat_templates.chat_templates import (
    convert_tokenizer_to_chat_template,
)

from cierzo.tokenizer.chat_prompt import ChatPrompt
from cierzo.tokenizer.loading import load_tokenizer
from cierzo.tokenizer.mistral_tokenizer import MistralFileTokenizer
from cierzo.tokenizer.tokenizer import Tokenizer
from tests.tokenizer.tekken_files import tekken_gguf_fields
from tests.tokenizer.test_mistral_prompt import CONVERSATIONS, TOOL_CONVERSATIONS, TOOLS
from tests.tokenizer.vocabularies import spm_gguf_fields, write_gguf_vocab

TITLES = (
    "one turn",
    "system",
    "merged users",
    "merged assistants",
    "chunks",
    "control words",
    "leading space",
    "empty user",
)
TOOL_TITLES = ("tools", "tools, two turns", "two calls")
NAMES = tuple(f"spm-{v}" for v in ("v1", "v2", "v3", "v7"))
NAMES += tuple(f"tekken-{v}" for v in ("v3", "v7", "v11", "v13", "v15"))


@pytest.mark.parametrize("name", NAMES)
def test_template_prompt_is_the_vendors(
    vendor_tokenizers: dict[str, Tokenizer], name: str, tmp_path: Path
) -> None:
    vendor = vendor_tokenizers[name]
    assert isinstance(vendor, MistralFileTokenizer)
    kind, version = name.split("-")
    fields = tekken_gguf_fields(version) if kind == "tekken" else spm_gguf_fields(version)
    template = convert_tokenizer_to_chat_template(
        vendor.vendor.instruct_tokenizer.tokenizer.file_path, plain_thinking_support=False
    )
    folder = write_gguf_vocab(tmp_path, dict(fields, chat_template=template))
    ours, theirs = ChatPrompt(load_tokenizer(folder)), ChatPrompt(vendor)
    for title in TITLES:
        conversation = CONVERSATIONS[title]
        if (version, title) == ("v15", "chunks"):
            continue
        assert ours.encode(conversation) == theirs.encode(conversation), title
    if version != "v1":
        assert ours.tool_format is theirs.tool_format
        for title in TOOL_TITLES:
            conversation = TOOL_CONVERSATIONS[title]
            assert ours.encode(conversation, TOOLS) == theirs.encode(conversation, TOOLS), title
    ours.close()
