"""Token ids to text, one at a time: what arrives is final, and nothing is lost or added.

Knows only a tokenizer's bytes; stop strings and tool calls are cut elsewhere.
"""

from __future__ import annotations

import codecs

from cierzo.tokenizer.tokenizer import Tokenizer


class Detokenizer:
    """Text of one answer as its tokens come. Half a UTF-8 character waits for its other half.

    At the start of an answer the space that a SentencePiece vocabulary makes up is dropped;
    pass `keep_first_space` when the answer continues a text (a raw completion, a prefix).
    """

    def __init__(self, tokenizer: Tokenizer, *, keep_first_space: bool = False) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._drop_space = tokenizer.adds_space_prefix and not keep_first_space

    def add(self, token_id: int) -> str:
        """The text that `token_id` completes, maybe none."""
        data = self._tokenizer.token_bytes(token_id)
        if data and self._drop_space:
            data = data.removeprefix(b" ")
            self._drop_space = False
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What still waits at the end: an unfinished character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)
