"""Fill-in-the-middle prompts: the code before the cursor and after it, in the vendor's order.

Knows Mistral's own files only; other vocabularies name their fill-in tokens differently.
"""

from __future__ import annotations

from mistral_common.protocol.fim.request import FIMRequest

from cierzo.errors import UnsupportedRequestError
from cierzo.tokenizer.mistral_tokenizer import MistralFileTokenizer
from cierzo.tokenizer.tokenizer import Tokenizer

_NEEDED = ("[SUFFIX]", "[PREFIX]")


def encode_fim(tokenizer: Tokenizer, prompt: str, suffix: str = "") -> list[int]:
    """<s>[SUFFIX] suffix [PREFIX] prompt; the answer goes on where `prompt` ends.

    So its first space is its own: read it with `Detokenizer(…, keep_first_space=True)`.
    Raises UnsupportedRequestError for a model without these tokens.
    """
    has_tokens = all(token in tokenizer.control_tokens for token in _NEEDED)
    if not isinstance(tokenizer, MistralFileTokenizer) or not has_tokens:
        raise UnsupportedRequestError(
            f"fill-in-the-middle needs a model with {' and '.join(_NEEDED)} in Mistral's own "
            f"tokenizer file (v3 or later); this one is {tokenizer.version}. Use Codestral."
        )
    request = FIMRequest(prompt=prompt, suffix=suffix)
    token_ids: list[int] = tokenizer.vendor.encode_fim(request).tokens
    return token_ids
