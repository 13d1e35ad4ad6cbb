"""Bounds-checked reading of one file, and the tensors inside it.

Bytes are read, never mapped: a file cut short while we read it is an error here, not
a bus error, and peak memory is what was asked for. Knows no file format.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.models.stored_types import (
    STORED_TYPES,
    Bytes,
    Float32,
    Groups,
    StoredType,
    may_not_be_finite,
)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file and its size when it was opened first."""

    path: Path
    nbytes: int

    @staticmethod
    def at(path: Path) -> ModelFile:
        try:
            return ModelFile(path, path.stat().st_size)
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read ({error})") from error

    def read(self, offset: int, nbytes: int) -> Bytes:
        """uint8 [nbytes] at `offset`; raises ModelFileError past the end of the file."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ModelFileError(
                f"{self.path}: bytes {offset}..{offset + nbytes} are outside its {self.nbytes}"
            )
        buffer = np.empty(nbytes, np.uint8)
        view = buffer.data
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(offset)
                done = 0
                while done < nbytes:
                    count = file.readinto(view[done:])
                    if not count:
                        raise ModelFileError(
                            f"{self.path}: ends at byte {offset + done}, while it was being read; "
                            "was it replaced or is it still being downloaded?"
                        )
                    done += count
        except OSError as error:
            raise ModelFileError(f"{self.path}: cannot be read ({error})") from error
        return buffer


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file, read by rows. The last axis runs along a row; the others are flattened.

    Whoever builds one has checked that `nbytes` from `offset` lie inside the file and are
    what `shape` and `type_name` need. `scale` multiplies every row (fp8), or is [n_rows].
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    file: ModelFile
    offset: int
    nbytes: int
    scale: Float32 | None = None

    @property
    def stored_type(self) -> StoredType:
        """How its numbers are stored; raises UnsupportedModelError for types we do not read."""
        stored = STORED_TYPES.get(self.type_name)
        if stored is None:
            raise UnsupportedModelError(
                f"{self.file.path}: tensor {self.name} is stored as {self.type_name}, which is "
                f"not supported; supported are {', '.join(STORED_TYPES)}"
            )
        return stored

    @property
    def n_in(self) -> int:
        return self.shape[-1]

    @property
    def has_groups(self) -> bool:
        """Whether `group_rows` works: the format maps to groups of 32."""
        return self.stored_type.groups is not None

    @may_not_be_finite
    def float_rows(self, start: int, stop: int) -> Float32:
        """float32 [stop − start, n_in]."""
        rows = self.stored_type.float_rows(self._raw(start, stop))
        if self.scale is None:
            return rows
        scale = self.scale if self.scale.size == 1 else self.scale.reshape(-1)[start:stop, None]
        scaled: Float32 = rows * scale
        return scaled

    def group_rows(self, start: int, stop: int) -> Groups:
        """Groups [stop − start, n_in]; only where `has_groups`."""
        return self.stored_type.group_rows(self._raw(start, stop))

    def floats(self) -> Float32:
        """The whole tensor, float32 in its own shape: for vectors and other small ones."""
        n_rows = int(np.prod(self.shape[:-1]))
        return self.float_rows(0, n_rows).reshape(self.shape)

    def _raw(self, start: int, stop: int) -> Bytes:
        row_nbytes = self.stored_type.row_nbytes(self.n_in)
        raw = self.file.read(self.offset + start * row_nbytes, (stop - start) * row_nbytes)
        return raw.reshape(stop - start, row_nbytes)
