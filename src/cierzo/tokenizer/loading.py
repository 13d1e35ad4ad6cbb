"""Which file of a model's folder makes its tokenizer.

Knows file names; what is in them is for the modules it picks.
"""

from __future__ import annotations

import re
from pathlib import Path

from cierzo.errors import ModelFileError
from cierzo.tokenizer.tokenizer import Tokenizer

GGUF_VOCAB_FILE = "gguf_vocab.json"
TEKKEN_FILE = "tekken.json"
HF_FILE = "tokenizer.json"
SPM_PATTERN = "tokenizer.model.v*"
BARE_SPM_FILE = "tokenizer.model"


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a packed folder or checkpoint folder; the vendor's own file wins.

    Raises ModelFileError when there is none or it is damaged or may not be read,
    UnsupportedModelError when it is of a kind that Cierzo cannot read.
    """
    try:
        return _load(folder)
    except OSError as error:
        raise ModelFileError(
            f"the tokenizer in {folder} cannot be read: {error}; let the user that Cierzo runs as"
            " read the folder and its files"
        ) from error


def _load(folder: Path) -> Tokenizer:
    spm_files = sorted(folder.glob(SPM_PATTERN), key=_spm_version)
    # Imported as needed: each library takes its time to load, and a model needs one.
    if (folder / TEKKEN_FILE).is_file() or spm_files:
        from cierzo.tokenizer.mistral_tokenizer import MistralFileTokenizer

        tekken = folder / TEKKEN_FILE
        return MistralFileTokenizer(tekken if tekken.is_file() else spm_files[-1])
    if (folder / GGUF_VOCAB_FILE).is_file():
        from cierzo.tokenizer.gguf_tokenizer import load_gguf_tokenizer

        return load_gguf_tokenizer(folder / GGUF_VOCAB_FILE)
    if (folder / HF_FILE).is_file():
        from cierzo.tokenizer.hf_tokenizer import HfTokenizer

        return HfTokenizer(folder)
    if (folder / BARE_SPM_FILE).is_file():
        from cierzo.tokenizer.mistral_tokenizer import MistralFileTokenizer

        # The name from before versions; the vendor's library reads it as v1.
        return MistralFileTokenizer(folder / BARE_SPM_FILE)
    raise ModelFileError(
        f"No tokenizer in {folder}: looked for {TEKKEN_FILE}, {SPM_PATTERN}, {GGUF_VOCAB_FILE}, "
        f"{HF_FILE} and {BARE_SPM_FILE}. Fetch the model again, or copy its tokenizer file "
        "into the folder."
    )


def _spm_version(path: Path) -> int:
    """tokenizer.model.v11 → 11, whatever follows (v11m1 is one with images); 0 without a number."""
    found = re.match(r"tokenizer\.model\.v(\d+)", path.name)
    return int(found[1]) if found else 0
