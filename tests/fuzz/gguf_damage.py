"""Damage to GGUF files where it counts: counts, lengths, types, shapes, offsets, values, new keys.

Walks a sound header once to learn where its numbers lie. Uses none of our own reader.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.fuzz.mutations import FLOATS, Mutator

_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_FLOAT_FORMATS = {6: "<f", 12: "<d"}
_STRING, _ARRAY = 8, 9
_NEW_KEYS = (
    *("general.alignment", "general.architecture", "split.count", "general.license"),
    *("llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.attention.sliding_window"),
    *("llama.expert_count", "llama.expert_used_count", "llama.rope.dimension_count"),
    *("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.chat_template"),
)


@dataclass(frozen=True, slots=True)
class Number:
    """`size` bytes at `offset`; `kind` is the GGUF type where it is a metadata value."""

    offset: int
    size: int
    kind: int = 4


@dataclass(slots=True)
class GgufMap:
    """Where the numbers of a header lie, and the bytes of its strings (offset, size)."""

    numbers: list[Number] = field(default_factory=list)
    strings: list[tuple[int, int]] = field(default_factory=list)
    metadata_end: int = 24


def damaged_gguf(mutator: Mutator, data: bytes) -> bytes:
    """A copy of a sound GGUF with a few numbers or letters of its header changed."""
    if mutator.chance(0.2):
        return mutator.damaged_bytes(data)
    layout = _walk(data)
    hurt = bytearray(data)
    for _ in range(mutator.rng.choice((1, 1, 1, 2, 3))):
        if mutator.chance(0.8):
            _change_number(mutator, hurt, mutator.rng.choice(layout.numbers))
        else:
            offset, size = mutator.rng.choice(layout.strings)
            if size:
                hurt[offset + mutator.rng.randrange(size)] = mutator.rng.randrange(256)
    if mutator.chance(0.25):
        hurt = _with_new_key(mutator, hurt, layout.metadata_end)
    return mutator.damaged_bytes(bytes(hurt)) if mutator.chance(0.1) else bytes(hurt)


def _change_number(mutator: Mutator, data: bytearray, number: Number) -> None:
    old = int.from_bytes(data[number.offset : number.offset + number.size], "little")
    new = (mutator.number(old) % (1 << 8 * number.size)).to_bytes(number.size, "little")
    if number.kind in _FLOAT_FORMATS and mutator.chance(0.8):
        value = mutator.rng.choice((*FLOATS[:5], 1e30, float("inf"), float("nan")))
        new = struct.pack(_FLOAT_FORMATS[number.kind], value)
    data[number.offset : number.offset + number.size] = new


def _with_new_key(mutator: Mutator, data: bytearray, at: int) -> bytearray:
    """One more key with any value; a second, of padding, keeps the tensors aligned."""
    entry = _entry(mutator.rng.choice(_NEW_KEYS), _value(mutator))
    padding = 64 - (len(entry) + len(_entry("pad", b""))) % 32
    entry += _entry("pad", struct.pack("<IQ", _STRING, padding - 12) + b" " * (padding - 12))
    count = struct.unpack_from("<Q", data, 16)[0]
    grown = data[:at] + entry + data[at:]
    struct.pack_into("<Q", grown, 16, (count + 2) % 2**64)
    return grown


def _entry(key: str, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + value


def _value(mutator: Mutator) -> bytes:
    """Type and value."""
    kind = mutator.rng.choice((*_SCALAR_BYTES, _STRING, _ARRAY, 13, 2**31))
    if kind == _STRING:
        text = mutator.text().encode("utf-8", "surrogatepass")
        return struct.pack("<IQ", kind, len(text)) + text
    if kind == _ARRAY:
        inner = mutator.rng.choice((*_SCALAR_BYTES, _STRING, _ARRAY))
        count = mutator.rng.choice((0, 1, 4, 2**32, 2**61))
        return struct.pack("<IIQ", kind, inner, count) + bytes(32)
    return struct.pack("<I", kind) + mutator.rng.randbytes(_SCALAR_BYTES.get(kind, 4))


def _walk(data: bytes) -> GgufMap:
    layout = GgufMap([Number(4, 4), Number(8, 8), Number(16, 8)])
    num_tensors, num_keys = struct.unpack_from("<QQ", data, 8)
    at = 24
    for _ in range(num_keys):
        at = _walk_string(data, at, layout)
        kind = struct.unpack_from("<I", data, at)[0]
        layout.numbers.append(Number(at, 4))
        at = _walk_value(data, at + 4, kind, layout)
    layout.metadata_end = at
    for _ in range(num_tensors):
        at = _walk_string(data, at, layout)
        num_axes = struct.unpack_from("<I", data, at)[0]
        layout.numbers.append(Number(at, 4))
        layout.numbers += [Number(at + 4 + 8 * axis, 8) for axis in range(num_axes)]
        at += 4 + 8 * num_axes
        layout.numbers += [Number(at, 4), Number(at + 4, 8)]
        at += 12
    return layout


def _walk_string(data: bytes, at: int, layout: GgufMap) -> int:
    size = struct.unpack_from("<Q", data, at)[0]
    layout.numbers.append(Number(at, 8))
    layout.strings.append((at + 8, size))
    return int(at + 8 + size)


def _walk_value(data: bytes, at: int, kind: int, layout: GgufMap) -> int:
    if kind == _STRING:
        return _walk_string(data, at, layout)
    if kind != _ARRAY:
        layout.numbers.append(Number(at, _SCALAR_BYTES[kind], kind))
        return at + _SCALAR_BYTES[kind]
    inner, count = struct.unpack_from("<IQ", data, at)
    layout.numbers += [Number(at, 4), Number(at + 4, 8)]
    at += 12
    # Of a long array the first items stand for all, so that the vocabulary does not drown the rest.
    few = GgufMap()
    for index in range(count):
        at = _walk_value(data, at, inner, layout if index < 3 else few)
    return at
