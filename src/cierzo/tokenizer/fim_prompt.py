"""Fill-in-the-middle prompts: the code before the cursor and after it, in the model's own order.

A vocabulary shows by its control tokens which order its model was trained on. Knows
vocabularies; nothing of requests.
"""

from __future__ import annotations

from cierzo.errors import UnsupportedRequestError
from cierzo.tokenizer.tokenizer import Tokenizer

_PROMPT, _SUFFIX = "prompt", "suffix"

_MISTRAL = ("[SUFFIX]", _SUFFIX, "[PREFIX]", _PROMPT)
_ORDERS: tuple[tuple[str, ...], ...] = (
    _MISTRAL,
    ("▁<PRE>", _PROMPT, "▁<SUF>", _SUFFIX, "▁<MID>"),
    ("<fim_prefix>", _PROMPT, "<fim_suffix>", _SUFFIX, "<fim_middle>"),
    ("<|fim_prefix|>", _PROMPT, "<|fim_suffix|>", _SUFFIX, "<|fim_middle|>"),
    ("<｜fim▁begin｜>", _PROMPT, "<｜fim▁hole｜>", _SUFFIX, "<｜fim▁end｜>"),
)
"""Mistral (from v3 on), Code Llama, StarCoder and Granite, Yi Coder and Qwen, DeepSeek Coder."""

_ENDS = ("▁<EOT>", "<fim_pad>", "<|fim_pad|>", "<file_sep>", "<|file_sep|>", "<|repo_name|>")
"""Control tokens that end a filled-in middle beside the vocabulary's own ends."""

_MARK = "☺"
"""Mistral encodes the suffix behind this sign and cuts the sign's tokens off: no space is made up
before the suffix, and words are split as inside a text, in byte-level vocabularies too."""


def can_fill_in(tokenizer: Tokenizer) -> bool:
    """True when the vocabulary has the control tokens of one of the known orders."""
    return _order(tokenizer) is not None


def encode_fim(tokenizer: Tokenizer, prompt: str, suffix: str = "") -> list[int]:
    """Both texts between the model's control tokens; the answer goes on where `prompt` ends,
    so its first space is its own: read it with `Detokenizer(…, keep_first_space=True)`.

    Raises UnsupportedRequestError for a model without these tokens.
    """
    order = _order(tokenizer)
    if order is None:
        raise UnsupportedRequestError(
            "this model was not made to fill in the middle: its vocabulary "
            f"({tokenizer.version}) has none of the control tokens for it, as [PREFIX] and "
            "[SUFFIX]; use a code model such as Codestral",
            param="model",
        )
    texts = {
        _PROMPT: tokenizer.encode(prompt, add_bos=False),
        _SUFFIX: _encode_inside(tokenizer, suffix, order),
    }
    bos = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    controls = tokenizer.control_tokens
    return [
        *bos,
        *(i for name in order for i in (texts[name] if name in texts else [controls[name]])),
    ]


def fim_stop_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that end a filled-in middle."""
    controls = tokenizer.control_tokens
    return tokenizer.eos_ids | {controls[name] for name in _ENDS if name in controls}


def _order(tokenizer: Tokenizer) -> tuple[str, ...] | None:
    controls = tokenizer.control_tokens
    for order in _ORDERS:
        if all(name in controls for name in order if name not in (_PROMPT, _SUFFIX)):
            return order
    return None


def _encode_inside(tokenizer: Tokenizer, suffix: str, order: tuple[str, ...]) -> list[int]:
    if not suffix or not (order is _MISTRAL or tokenizer.adds_space_prefix):
        return tokenizer.encode(suffix)
    return tokenizer.encode(_MARK + suffix)[len(tokenizer.encode(_MARK)) :]
