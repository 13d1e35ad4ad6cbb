"""Typed, bounds-checked reading of JSON objects and GGUF metadata.

Every value that comes out of a model file passes through here, so that a wrong
type or an absurd number is a `ModelFileError` naming file, field and rule.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cierzo.errors import ModelFileError

MAX_JSON_BYTES = 256 * 2**20
"""No config, index or header of a real model comes near this."""


class Fields:
    """A mapping from a file, read field by field. A missing required field is an error."""

    def __init__(self, values: Mapping[str, Any], origin: str, prefix: str = "") -> None:
        self.origin = origin
        self._values = values
        self._prefix = prefix

    @property
    def names(self) -> Collection[str]:
        """Every key of the underlying mapping, those with null values too."""
        return self._values.keys()

    def get(self, name: str) -> Any:
        """The raw value, or None when absent or null."""
        return self._values.get(self._prefix + name)

    def has(self, name: str) -> bool:
        return self.get(name) is not None

    def integer(
        self, name: str, low: int = 1, high: int = 2**31 - 1, *, default: int | None = None
    ) -> int:
        value = self._or_default(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, "must be a whole number", value)
        if not low <= value <= high:
            raise self.error(name, f"must be between {low} and {high}", value)
        return value

    def number(
        self, name: str, low: float = 0.0, high: float = 1e12, *, default: float | None = None
    ) -> float:
        value = self._or_default(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, "must be a number", value)
        if not low <= value <= high:  # false for NaN too
            raise self.error(name, f"must be between {low:g} and {high:g}", value)
        return float(value)

    def optional_number(self, name: str, low: float = 0.0, high: float = 1e12) -> float | None:
        return self.number(name, low, high) if self.has(name) else None

    def flag(self, name: str, default: bool) -> bool:
        value = self._or_default(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "must be true or false", value)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._or_default(name, default)
        if not isinstance(value, str):
            raise self.error(name, "must be a string", value)
        return value

    def items(self, name: str) -> list[Any]:
        value = self._or_default(name, None)
        if not isinstance(value, list):
            raise self.error(name, "must be a list", value)
        return value

    def section(self, name: str) -> Fields | None:
        """A nested object, or None when absent or null."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(name, "must be an object", value)
        return Fields(value, f"{self.origin}, {self._prefix}{name}")

    def error(self, name: str, rule: str, value: object) -> ModelFileError:
        shown = repr(value) if not isinstance(value, int) or value < 2**64 else "a huge number"
        if len(shown) > 80:
            shown = shown[:77] + "..."
        return ModelFileError(f"{self.origin}: {self._prefix}{name} {rule}, got {shown}")

    def _or_default(self, name: str, default: object) -> Any:
        value = self.get(name)
        if value is None:
            value = default
        if value is None:
            raise ModelFileError(f"{self.origin}: {self._prefix}{name} is missing")
        return value


def parse_json_object(text: bytes, origin: str) -> dict[str, Any]:
    """A JSON object from untrusted bytes; anything else raises ModelFileError."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{origin}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{origin}: must hold a JSON object, got {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return values


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; unreadable, oversized or invalid raises ModelFileError."""
    try:
        nbytes = path.stat().st_size
        if nbytes > MAX_JSON_BYTES:
            raise ModelFileError(f"{path}: {nbytes} bytes of JSON is over {MAX_JSON_BYTES}")
        return parse_json_object(path.read_bytes(), str(path))
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error})") from error
