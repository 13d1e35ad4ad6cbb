"""Seeded damage to bytes, numbers, texts and JSON trees.

Knows no file format: `gguf_damage.py` and the targets say where in a file to strike.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 15, 31, 32, 33, 64, 255, 256, 4096, 65535, 65536, 2**24, 2**28),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**48, 2**53, 2**62, 2**63 - 1, 2**63),
    *(2**64 - 1, 2**64, -(2**31), -(2**63), 10**30),
)
FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-300, 1e-45, 1e30, 1e300, float("inf"), float("-inf"))
TEXTS = (
    *(
        "",
        " ",
        "\x00",
        "\ud800",
        "é",
        "日本語",
        "👩\u200d👩\u200d👧",
        "\u2581",
        "..",
        "../../etc/passwd",
    ),
    *("/dev/zero", "a" * 300, "a" * 70000, "<s>", "</s>", "<|im_end|>", "[INST]", "<0x00>"),
    *("<0xZZ>", "{{ messages }}", "{% for i in range(10**9) %}x{% endfor %}", "{%", "(a+)+$"),
    *("null", "1e999"),
)


class Mutator:
    """Everything is drawn from `rng`, so that a seed and a number name one input for ever."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def number(self, old: int = 0) -> int:
        """Near `old`, or one of the numbers that programs trip over."""
        near = (old + 1, old - 1, -old, old * 2, old // 2, old ^ 1 << self.rng.randrange(63))
        return self.rng.choice(near if self.chance(0.4) else NUMBERS)

    def text(self, old: str = "") -> str:
        if not old or self.chance(0.5):
            return self.rng.choice(TEXTS)
        at = self.rng.randrange(len(old) + 1)
        new = self.rng.choice((self.rng.choice(TEXTS), chr(self.rng.randrange(0xD800)), ""))
        return old[:at] + new + old[at + self.rng.choice((0, 1, 5)) :]

    def damaged_bytes(self, data: bytes) -> bytes:
        """One to four blows, most of them near the start, where headers are."""
        hurt = bytearray(data)
        for _ in range(self.rng.choice((1, 1, 2, 4))):
            self.rng.choice(self._BLOWS)(self, hurt)
        return bytes(hurt)

    def _place(self, data: bytearray) -> int:
        reach = len(data) if self.chance(0.5) else min(len(data), 512)
        return self.rng.randrange(reach) if reach else 0

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._place(data)] ^= 1 << self.rng.randrange(8)

    def _write_number(self, data: bytearray) -> None:
        size, at = self.rng.choice((1, 2, 4, 8)), self._place(data)
        number = self.number() % (1 << 8 * size)
        data[at : at + size] = number.to_bytes(size, "little")

    def _truncate(self, data: bytearray) -> None:
        del data[self._place(data) :]

    def _extend(self, data: bytearray) -> None:
        data += self.rng.randbytes(self.rng.choice((1, 31, 4096)))

    def _cut(self, data: bytearray) -> None:
        at = self._place(data)
        del data[at : at + self.rng.choice((1, 4, 100))]

    def _repeat(self, data: bytearray) -> None:
        at = self._place(data)
        data[at:at] = data[at : at + self.rng.choice((1, 8, 200))]

    def _fill(self, data: bytearray) -> None:
        at, size = self._place(data), self.rng.choice((2, 16, 300))
        data[at : at + size] = bytes([self.rng.choice((0, 0x7F, 0x80, 0xFF))]) * size

    def _flood(self, data: bytearray) -> None:
        at = self._place(data)
        data[at:at] = self.rng.choice((b"\n", b" ", b"[", b"(", b"a", b"\0")) * 20000

    _BLOWS: tuple[Callable[[Mutator, bytearray], None], ...] = (
        *(_flip, _flip, _write_number, _write_number),
        *(_truncate, _extend, _cut, _repeat, _fill, _flood),
    )

    def damaged_json(self, value: Any) -> Any:
        """A copy of a JSON tree with one to three of its nodes changed."""
        tree = {"root": copy.deepcopy(value)}
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            self._strike(tree)
        return tree["root"]

    def _strike(self, tree: dict[str, Any]) -> None:
        holder: Any = tree
        key: Any = "root"
        while isinstance(holder[key], dict | list) and holder[key] and not self.chance(0.15):
            holder = holder[key]
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            key = self.rng.choice(keys)
        action = self.rng.random()
        if action < 0.12 and holder is not tree:
            del holder[key]
        elif action < 0.2 and isinstance(holder, dict) and holder is not tree:
            holder[self.text(key)] = holder[key]
        elif action < 0.28 and isinstance(holder, list):
            holder.extend([holder[key]] * self.rng.choice((1, 2, 500)))
        else:
            holder[key] = self._replacement(holder[key])

    def _replacement(self, old: Any) -> Any:
        if self.chance(0.5):  # of the same type: gets past the first check
            if isinstance(old, bool):
                return not old
            if isinstance(old, int):
                return self.number(old)
            if isinstance(old, float):
                return self.rng.choice((*FLOATS, old * 1e6, -old, old / 1e6))
            if isinstance(old, str):
                return self.text(old)
            if isinstance(old, list) and old:
                return self.rng.choice((old[:-1], old[::-1], [old], old[:1] * 1000))
        deep: Any = 1
        for _ in range(self.rng.choice((3, 100, 300))):
            deep = [deep] if self.chance(0.5) else {"a": deep}
        anything: tuple[Any, ...] = (
            None,
            True,
            False,
            [],
            {},
            [None],
            {"": None},
            deep,
            float("nan"),
        )
        return self.rng.choice((*anything, self.number(), self.rng.choice(FLOATS), self.text()))

    def json_bytes(self, value: Any) -> bytes:
        """The tree damaged as a tree (mostly) or as text; deeper nesting than any parser takes."""
        fate = self.rng.random()
        if fate < 0.05:
            return b"[" * 10**5
        if fate < 0.75:
            return json.dumps(self.damaged_json(value)).encode()
        return self.damaged_bytes(json.dumps(value).encode())
