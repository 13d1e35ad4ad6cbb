"""Writes weights.bin: planned tensors, packed and streamed in chunks of rows.

Peak memory is a few chunks, whatever the size of a tensor. Knows nothing of folders,
manifests or file formats.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from io import FileIO

import numpy as np

from cierzo.models.packed_folder import (
    ALIGNMENT,
    EDGE_BYTES,
    PIECE_BYTES,
    PackedEntry,
    Progress,
    tensor_nbytes,
)
from cierzo.models.quantization import (
    ErrorSum,
    PackedKind,
    RequestedDtype,
    float_rows,
    pack_rows,
    packed_kind,
)
from cierzo.models.stored_types import Bytes, Float32
from cierzo.models.weight_plan import PlannedTensor

CHUNK_WEIGHTS = 2**20
"""Weights in memory at a time, as float32 and a few temporaries of that size."""

FLUSH_BYTES = 32 * 2**20
"""Written before the disk is asked to begin: enough for it to work in long strokes."""


def write_weights(
    file: FileIO,
    planned: Sequence[PlannedTensor],
    dtype: RequestedDtype,
    arrays: Mapping[str, Float32],
    progress: Progress,
) -> tuple[tuple[PackedEntry, ...], int]:
    """Write all tensors; returns their entries and the file's size.

    `arrays` gives float32 tensors that no file holds. Raises OSError as the disk does and
    ModelFileError for damaged sources.
    """
    kinds = [None if tensor.is_float else packed_kind(tensor, dtype) for tensor in planned]
    sizes = [_nbytes(tensor, kind) for tensor, kind in zip(planned, kinds, strict=True)]
    total = sum(_aligned(size) for size in sizes)
    _reserve(file, total)
    entries = []
    with _Output(file) as output:
        for tensor, kind, nbytes in zip(planned, kinds, sizes, strict=True):
            error, crc, offset = ErrorSum(), 0, output.position
            for chunk in _chunks(tensor, kind, arrays.get(tensor.name), error):
                progress(output.position, total, tensor.name)
                output.write(chunk.data)
                crc = zlib.crc32(chunk.data, crc)
            assert output.position == offset + nbytes, tensor.name
            output.write(bytes(_aligned(nbytes) - nbytes))
            entries.append(_entry(tensor, kind, offset, nbytes, error.relative, crc))
    progress(total, total, "")
    return tuple(_with_edges(file, entry) for entry in entries), total


def _entry(
    tensor: PlannedTensor,
    kind: PackedKind | None,
    offset: int,
    nbytes: int,
    relative_error: float,
    crc32: int,
) -> PackedEntry:
    return PackedEntry(
        name=tensor.name,
        dtype="float32" if kind is None else kind.dtype,
        affine=kind is not None and kind.affine,
        n_out=tensor.n_out,
        n_in=tensor.n_in,
        n_experts=max(len(tensor.experts), 1),
        offset=offset,
        nbytes=nbytes,
        relative_error=relative_error,
        crc32=crc32,
        edge_crc32=0,  # till the file is written
    )


def _nbytes(tensor: PlannedTensor, kind: PackedKind | None) -> int:
    dtype, affine = ("float32", False) if kind is None else (kind.dtype, kind.affine)
    return tensor_nbytes(dtype, affine, tensor.n_out, tensor.n_in, max(len(tensor.experts), 1))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _reserve(file: FileIO, nbytes: int) -> None:
    """Claim the whole size now, so that a full disk shows before hours of work."""
    try:
        os.posix_fallocate(file.fileno(), 0, nbytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        file.truncate(nbytes)


def _chunks(
    tensor: PlannedTensor, kind: PackedKind | None, array: Float32 | None, error: ErrorSum
) -> Iterator[Bytes]:
    """The bytes of a tensor in order, chunk by chunk of whole panels."""
    if array is not None:
        yield np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        return
    num_rows = max(CHUNK_WEIGHTS // tensor.n_in // 32 * 32, 32)
    for expert in range(len(tensor.experts)):
        for start in range(0, tensor.n_out, num_rows):
            stop = min(start + num_rows, tensor.n_out)
            if kind is None:
                yield float_rows(tensor, expert, start, stop).view(np.uint8).reshape(-1)
            else:
                yield pack_rows(tensor, kind, expert, start, stop, error)


class _Output:
    """The file, written from its beginning to its end in whole pieces.

    The disk writes what it has while the next rows are packed: left alone, the system keeps
    gigabytes in memory before it begins, and packing and writing take turns instead of overlapping.
    Raises OSError as the disk does.
    """

    def __init__(self, file: FileIO) -> None:
        self.position = 0
        self._file = file
        self._piece = memoryview(bytearray(PIECE_BYTES))
        self._unflushed_bytes = 0
        self._thread = ThreadPoolExecutor(1, "cierzo-flush")
        self._flush: Future[None] | None = None

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self._write_piece(self.position % PIECE_BYTES)
        finally:
            self._thread.shutdown()
        if error[0] is None and self._flush is not None:
            self._flush.result()

    def write(self, data: memoryview | bytes) -> None:
        view = memoryview(data).cast("B")
        while view:
            begin = self.position % PIECE_BYTES
            part = view[: PIECE_BYTES - begin]
            self._piece[begin : begin + len(part)] = part
            self.position += len(part)
            view = view[len(part) :]
            if self.position % PIECE_BYTES == 0:
                self._write_piece(PIECE_BYTES)

    def _write_piece(self, nbytes: int) -> None:
        view = self._piece[:nbytes]
        while view:
            written = os.pwrite(self._file.fileno(), view, self.position - len(view))
            view = view[written:]
        self._unflushed_bytes += nbytes
        if self._unflushed_bytes < FLUSH_BYTES or (self._flush and not self._flush.done()):
            return
        if self._flush is not None:
            self._flush.result()
        self._unflushed_bytes = 0
        self._flush = self._thread.submit(os.fdatasync, self._file.fileno())


def _with_edges(file: FileIO, entry: PackedEntry) -> PackedEntry:
    size = min(entry.nbytes, EDGE_BYTES)
    first = os.pread(file.fileno(), size, entry.offset)
    last = os.pread(file.fileno(), size, entry.offset + entry.nbytes - size)
    return replace(entry, edge_crc32=zlib.crc32(last, zlib.crc32(first)))
