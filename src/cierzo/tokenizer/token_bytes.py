"""From a vocabulary's written pieces to the bytes they stand for.

Two spellings are in use: byte-level BPE writes each byte as one printable character,
SentencePiece writes a space as U+2581 and a lone byte as <0xNN>. Knows no files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

SPACE_MARK = "\u2581"

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 stands for itself, the other bytes follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    table.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return table


_BYTE_OF_CHARACTER = _byte_of_character()


def byte_level_bytes(piece: str) -> bytes:
    """Bytes of a byte-level piece: "Ġthe" → b" the". A piece outside the table is plain text."""
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in piece)
    except KeyError:
        return piece.encode()


def sentencepiece_bytes(piece: str) -> bytes:
    """Bytes of a SentencePiece piece: "▁the" → b" the", "<0x0A>" → b"\\n"."""
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace(SPACE_MARK, " ").encode()


def join_texts(pieces: Sequence[int | str]) -> list[int | str]:
    """The same pieces with neighbouring texts joined and empty ones gone."""
    joined: list[int | str] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        elif piece != "":
            joined.append(piece)
    return joined


def decode_tokens(
    token_ids: Sequence[int], token_bytes: Callable[[int], bytes], *, drop_first_space: bool
) -> str:
    """The text of `token_ids`; `drop_first_space` removes SentencePiece's made-up space."""
    data = b"".join(token_bytes(token_id) for token_id in token_ids)
    if drop_first_space:
        data = data.removeprefix(b" ")
    return data.decode("utf-8", errors="replace")
