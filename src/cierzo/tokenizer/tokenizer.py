"""What a tokenizer is to the rest of Cierzo.

Knows text and token ids. Knows nothing of messages, templates, models or requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Text to token ids and back, whatever file the vocabulary came from.

    `encode` takes text that somebody else wrote: it never yields a control token, whatever
    the text spells. Control tokens enter a prompt only as ids, through `encode_pieces`.
    """

    @property
    def vocab_size(self) -> int:
        """Token ids are 0 … vocab_size − 1; a model's logits may be wider (padding)."""

    @property
    def version(self) -> str:
        """A short name for people: "tekken v7", "spm v3", "gguf gpt2/smollm"."""

    @property
    def bos_id(self) -> int | None:
        """The token that begins a sequence, if the vocabulary has one."""

    @property
    def adds_bos(self) -> bool:
        """True when plain text (no chat template) should start with `bos_id`."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end an answer: end of sequence, end of turn."""

    @property
    def added_eos_id(self) -> int | None:
        """The token that plain text should end with, where the file asks for one: embedding
        models do."""

    @property
    def control_tokens(self) -> Mapping[str, int]:
        """Every control token's own spelling, and its id."""

    @property
    def adds_space_prefix(self) -> bool:
        """True for SentencePiece vocabularies, where text begins with one made-up space."""

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that came with the vocabulary."""

    @property
    def template_variables(self) -> Mapping[str, str]:
        """What templates call bos_token, eos_token, unk_token and pad_token."""

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Ids of `text`, which is never parsed for control tokens."""

    def encode_pieces(self, pieces: Sequence[int | str]) -> list[int]:
        """Ids of a prompt made of control ids and the texts between them.

        Adjacent texts are one text. Where the vocabulary puts a space before text, a piece
        that already begins with a space gets no second one.
        """

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of `token_ids`: control tokens vanish, broken UTF-8 becomes U+FFFD."""

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that this token adds inside a text (space prefix included); controls: b""."""

    def is_control(self, token_id: int) -> bool:
        """True for tokens that steer the model and are no text."""


def encode_whole(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text that stands for itself, with the first and last token the file asks for."""
    ids = tokenizer.encode(text, add_bos=tokenizer.adds_bos)
    return ids if tokenizer.added_eos_id is None else [*ids, tokenizer.added_eos_id]


END_OF_TURN_TOKENS = frozenset(
    ("</s>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
    + ("<|end|>", "<end_of_turn>", "<|return|>", "<|call|>", "<EOT>", "<|EOT|>")
)
"""Control tokens that end an answer in the families people run; a file names only one."""

MAX_VOCAB_SIZE = 1 << 22
"""Far above any real vocabulary; a file that claims more lies, and is not believed."""
