"""GGUF's names for the ways a byte-level BPE vocabulary cuts text into words.

A GGUF file carries the name, not the pattern; the patterns are the ones that the models'
authors published with their tokenizers. Knows no vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

from cierzo.errors import UnsupportedModelError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"


@dataclass(frozen=True, slots=True)
class WordRule:
    """How to cut, in order, and whether a word that is in the vocabulary skips the merges."""

    patterns: tuple[str, ...]
    single_digits: bool = False
    ignore_merges: bool = False

    def build(self) -> PreTokenizer:
        """The `tokenizers` object that does it."""
        steps: list[PreTokenizer] = [Digits(individual_digits=True)] if self.single_digits else []
        steps += [Split(Regex(pattern), behavior="isolated") for pattern in self.patterns]
        return Sequence([*steps, ByteLevel(add_prefix_space=False, use_regex=False)])


_GPT2_RULE = WordRule((_GPT2,))
_SINGLE_DIGITS_RULE = WordRule((_GPT2,), single_digits=True)
_LLAMA3_RULE = WordRule((_LLAMA3,), ignore_merges=True)

WORD_RULES = {
    "default": WordRule((_PUNCTUATION, _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "gpt-2": _GPT2_RULE,
    "phi-2": _GPT2_RULE,
    "olmo": _GPT2_RULE,
    "mpt": _GPT2_RULE,
    "smollm": _SINGLE_DIGITS_RULE,
    "starcoder": _SINGLE_DIGITS_RULE,
    "refact": _SINGLE_DIGITS_RULE,
    "command-r": _SINGLE_DIGITS_RULE,
    "llama-bpe": _LLAMA3_RULE,
    "llama3": _LLAMA3_RULE,
    "llama-v3": _LLAMA3_RULE,
    "smaug-bpe": _LLAMA3_RULE,
    "tekken": WordRule((_TEKKEN,), ignore_merges=True),
    "qwen2": WordRule((_QWEN2,)),
}


def word_rule(name: str) -> WordRule:
    """The rule of GGUF's `tokenizer.ggml.pre`. Raises UnsupportedModelError for another name."""
    try:
        return WORD_RULES[name]
    except KeyError:
        known = ", ".join(sorted(WORD_RULES))
        raise UnsupportedModelError(
            f"Pre-tokenizer {name!r} in the GGUF vocabulary is not one Cierzo knows ({known}). "
            "Use the model's safetensors files with tokenizer.json instead."
        ) from None
