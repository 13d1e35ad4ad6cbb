"""GGUF v2 and v3 headers: metadata and tensor table, every number checked before use.

Counts and lengths are compared with the bytes that are left before anything is
allocated for them. Knows nothing of what keys or tensors mean.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.models.model_file import ModelFile, StoredTensor
from cierzo.models.stored_types import STORED_TYPES

_CHUNK_BYTES = 4 * 2**20
_MAX_STRINGS = 2**22
"""In all arrays together: Python strings cost far more than their bytes."""
_MAX_ARRAY_DEPTH = 4

_SCALARS: dict[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_FLOAT32, _BOOL, _STRING, _ARRAY = 6, 7, 8, 9

_TYPE_NAMES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Metadata values are int, float, bool, str, list[str] or a NumPy array of numbers."""

    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]
    header_nbytes: int


def read_gguf(path: Path) -> GgufFile:
    """The checked header. Raises ModelFileError for anything that is not true of the file."""
    file = ModelFile.at(path)
    header = _Header(file)
    if header.take(4) != b"GGUF":
        raise ModelFileError(f"{path}: does not start with GGUF; it is no GGUF file")
    version = header.integer(4)
    if version in (2 << 24, 3 << 24):
        raise UnsupportedModelError(f"{path}: big-endian GGUF files are not supported")
    if version not in (2, 3):
        raise UnsupportedModelError(f"{path}: GGUF version {version}; supported are 2 and 3")
    num_tensors = header.count("tensors", min_nbytes=24)
    num_keys = header.count("metadata keys", min_nbytes=13)
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = header.string()
        if key in metadata:
            raise header.error(f"metadata key {key!r} appears twice")
        metadata[key] = header.value(header.integer(4))
    if metadata.get("split.count", 0) not in (0, 1):
        raise UnsupportedModelError(
            f"{path}: one part of a split GGUF; merge the parts first (gguf-split --merge)"
        )
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**16 or alignment.bit_count() != 1:
        raise header.error(f"general.alignment must be a power of two, got {alignment!r}")
    entries = [_tensor_entry(header) for _ in range(num_tensors)]
    data_start = -(-header.position // alignment) * alignment
    tensors = [_tensor(file, entry, data_start, alignment) for entry in entries]
    _check_layout(file, tensors)
    return GgufFile(metadata, {tensor.name: tensor for tensor in tensors}, header.position)


class _Header:
    """A cursor over the start of the file that reads on in chunks and never past the end."""

    def __init__(self, file: ModelFile) -> None:
        self.position = 0
        self._file = file
        self._bytes = bytearray()
        self._num_strings = 0

    def error(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self._file.path}: at byte {self.position}: {what}")

    def take(self, nbytes: int) -> bytearray:
        if nbytes > self._file.nbytes - self.position:
            raise self.error(
                f"{nbytes} bytes announced, {self._file.nbytes - self.position} left; "
                "the file is truncated or damaged"
            )
        end = self.position + nbytes
        if end > len(self._bytes):
            more = max(_CHUNK_BYTES, end - len(self._bytes))
            more = min(more, self._file.nbytes - len(self._bytes))
            self._bytes += self._file.read(len(self._bytes), more).data
        taken = self._bytes[self.position : end]
        self.position = end
        return taken

    def integer(self, nbytes: int) -> int:
        return int.from_bytes(self.take(nbytes), "little")

    def count(self, what: str, *, min_nbytes: int) -> int:
        """A 64-bit count of things that take at least `min_nbytes` each."""
        count = self.integer(8)
        if count * min_nbytes > self._file.nbytes - self.position:
            raise self.error(f"{count} {what} cannot fit the rest of the file")
        return count

    def string(self) -> str:
        raw = self.take(self.integer(8))
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"a string that is not UTF-8 ({error})") from error

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind in _SCALARS:
            scalar = _SCALARS[kind]
            number = scalar.unpack(self.take(scalar.size))[0]
            # The shortest decimal that is this float32: 1e-05, as the config once said.
            return float(str(np.float32(number))) if kind == _FLOAT32 else number
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY and depth < _MAX_ARRAY_DEPTH:
            return self._array(depth)
        raise self.error(f"metadata of type {kind}, which GGUF does not have")

    def _array(self, depth: int) -> Any:
        kind = self.integer(4)
        if kind in _SCALARS:
            scalar = _SCALARS[kind]
            count = self.count("array items", min_nbytes=scalar.size)
            raw = self.take(count * scalar.size)
            if kind == _BOOL:
                return np.frombuffer(raw, dtype=np.uint8) != 0
            return np.frombuffer(raw, dtype=scalar.format)
        count = self.count("array items", min_nbytes=8)
        self._num_strings += count
        if self._num_strings > _MAX_STRINGS:
            raise self.error(f"{self._num_strings} strings in arrays, over {_MAX_STRINGS}")
        return [self.value(kind, depth + 1) for _ in range(count)]


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int


def _tensor_entry(header: _Header) -> _Entry:
    name = header.string()
    n_dims = header.integer(4)
    if not 1 <= n_dims <= 4:
        raise header.error(f"tensor {name!r} has {n_dims} axes; GGUF allows 1 to 4")
    # Stored fastest axis first; reversed, the last axis runs along a row.
    shape = tuple(header.integer(8) for _ in range(n_dims))[::-1]
    return _Entry(name, shape, header.integer(4), header.integer(8))


def _tensor(file: ModelFile, entry: _Entry, data_start: int, alignment: int) -> StoredTensor:
    origin = f"{file.path}, tensor {entry.name!r}"
    type_name = _TYPE_NAMES.get(entry.type_id)
    if type_name is None:
        raise ModelFileError(f"{origin}: type {entry.type_id}, which GGUF does not have")
    stored = STORED_TYPES.get(type_name)
    if stored is None:
        raise UnsupportedModelError(
            f"{origin}: stored as {type_name}, which is not supported; supported are "
            f"{', '.join(name for name in STORED_TYPES if name in _TYPE_NAMES.values())}"
        )
    if min(entry.shape) < 1 or entry.shape[-1] % stored.block_size:
        raise ModelFileError(
            f"{origin}: shape {list(entry.shape)}; rows of {type_name} must be positive "
            f"multiples of {stored.block_size}"
        )
    nbytes = math.prod(entry.shape[:-1]) * stored.row_nbytes(entry.shape[-1])
    if entry.offset % alignment:
        raise ModelFileError(f"{origin}: offset {entry.offset} is not aligned to {alignment}")
    if data_start + entry.offset + nbytes > file.nbytes:
        raise ModelFileError(
            f"{origin}: needs bytes up to {data_start + entry.offset + nbytes}, the file has "
            f"{file.nbytes}; the download is incomplete or the file damaged"
        )
    return StoredTensor(entry.name, entry.shape, type_name, file, data_start + entry.offset, nbytes)


def _check_layout(file: ModelFile, tensors: list[StoredTensor]) -> None:
    names: set[str] = set()
    position = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.name in names:
            raise ModelFileError(f"{file.path}: tensor {tensor.name!r} appears twice")
        if tensor.offset < position:
            raise ModelFileError(f"{file.path}: tensor {tensor.name!r} overlaps the one before it")
        names.add(tensor.name)
        position = tensor.offset + tensor.nbytes
