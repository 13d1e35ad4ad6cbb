"""The packed folder: `cierzo.json` (what is inside, checked) and `weights.bin` (mapped).

Opening reads the manifest and the edges of every tensor, so it takes milliseconds
whatever the model's size; `verify_packed` reads everything. Knows no checkpoint format.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cierzo import kernels
from cierzo.config import ModelConfig, WeightDtype
from cierzo.errors import ModelFileError
from cierzo.kernels import PackedWeight, Tensor
from cierzo.models.config_checks import config_from_json, config_to_json
from cierzo.models.fields import Fields, read_json_object
from cierzo.models.packed_shapes import PackedShape, packed_shapes

MANIFEST = "cierzo.json"
WEIGHTS = "weights.bin"
FORMAT_VERSION = 1
ALIGNMENT = 4096
EDGE_BYTES = 4096

PIECE_BYTES = 2 * 2**20
"""Written and read at once, at its multiples: a huge page (decision 0082)."""

_MAX_SIZE = 2**48
_MADV_POPULATE_READ = 22  # of Linux 5.14; Python has no name for it

Progress = Callable[[int, int, str], None]
"""Called with (bytes done, bytes in all, tensor at hand)."""

PackedDtype = WeightDtype | Literal["float32"]
_DTYPES: tuple[PackedDtype, ...] = ("float32", "int4", "int8", "bf16")


@dataclass(frozen=True, slots=True)
class PackedEntry:
    """One tensor of weights.bin. `dtype` float32 is a plain row-major array.

    `relative_error` compares with the source's own weights; `crc32` covers all bytes,
    `edge_crc32` the first and last 4096.
    """

    name: str
    dtype: PackedDtype
    affine: bool
    n_out: int
    n_in: int
    n_experts: int
    offset: int
    nbytes: int
    relative_error: float
    crc32: int
    edge_crc32: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """cierzo.json without its checksum. `fingerprint` is the source's, `dtype` what was asked."""

    config: ModelConfig
    dtype: str
    source: str
    fingerprint: list[dict[str, Any]]
    licence: str | None
    weights_nbytes: int
    entries: tuple[PackedEntry, ...]

    def to_bytes(self) -> bytes:
        body = {
            "format_version": FORMAT_VERSION,
            "config": config_to_json(self.config),
            "dtype": self.dtype,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "licence": self.licence,
            "weights_nbytes": self.weights_nbytes,
            "tensors": [asdict(entry) for entry in self.entries],
        }
        return json.dumps({"sha256": _checksum(body), "model": body}, indent=1).encode()


def tensor_nbytes(dtype: str, affine: bool, n_out: int, n_in: int, n_experts: int) -> int:
    """Bytes of a tensor in weights.bin."""
    if dtype == "float32":
        return n_out * n_in * 4
    return n_experts * kernels.packed_nbytes(dtype, affine, n_out, n_in)


def is_packed_folder(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The checked manifest. Raises ModelFileError when it is damaged or of another version."""
    path = folder / MANIFEST
    outer = read_json_object(path)
    body = outer.get("model")
    if not isinstance(body, dict) or outer.get("sha256") != _checksum(body):
        raise _damaged(path, "its checksum does not match")
    fields = Fields(body, str(path))
    version = fields.integer("format_version")
    if version != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: packed format {version}, this Cierzo writes {FORMAT_VERSION}; "
            "delete the folder and load the model again"
        )
    fingerprint = fields.items("fingerprint")
    config = config_from_json(body.get("config") or {}, str(path))
    entries = tuple(_entry(item, str(path)) for item in fields.items("tensors"))
    _check_shapes(entries, config, path)
    return Manifest(
        config,
        fields.text("dtype"),
        fields.text("source"),
        fingerprint,
        fields.text("licence", "") or None,
        fields.integer("weights_nbytes", 1, _MAX_SIZE),
        entries,
    )


def _entry(values: Any, origin: str) -> PackedEntry:
    if not isinstance(values, dict):
        raise ModelFileError(f"{origin}: a tensor entry must be an object")
    name = Fields(values, origin).text("name")
    fields = Fields(values, f"{origin}, tensor {name}")
    dtype = next((d for d in _DTYPES if d == fields.text("dtype")), None)
    if dtype is None:
        raise fields.error("dtype", f"must be one of {_DTYPES}", fields.get("dtype"))
    entry = PackedEntry(
        name,
        dtype,
        fields.flag("affine", False),
        fields.integer("n_out", 1, 2**24),
        fields.integer("n_in", 1, 2**24),
        fields.integer("n_experts", 1, 4096),
        fields.integer("offset", 0, _MAX_SIZE),
        fields.integer("nbytes", 1, _MAX_SIZE),
        fields.number("relative_error"),
        fields.integer("crc32", 0, 2**32 - 1),
        fields.integer("edge_crc32", 0, 2**32 - 1),
    )
    if entry.affine and entry.dtype in ("float32", "bf16"):
        raise fields.error("affine", f"must be false for {dtype}", True)
    shape = (entry.n_out, entry.n_in, entry.n_experts)
    needed = tensor_nbytes(entry.dtype, entry.affine, *shape)
    if entry.nbytes != needed:
        raise fields.error("nbytes", f"must be {needed} for its shape", entry.nbytes)
    return entry


def _check_shapes(entries: tuple[PackedEntry, ...], config: ModelConfig, path: Path) -> None:
    """Every tensor that `config` needs is listed once, in its shape, and no other."""
    listed = {
        e.name: PackedShape(e.n_out, e.n_in, e.n_experts, is_float=e.dtype == "float32")
        for e in entries
    }
    needed = packed_shapes(config)
    if len(listed) != len(entries):
        raise _damaged(path, "a tensor is listed twice")
    for name in sorted(listed.keys() | needed.keys()):
        if listed.get(name) != needed.get(name):
            raise _damaged(path, f"tensor {name} is not what the configuration needs")


class PackedFolder:
    """A packed model, mapped: its config, and its tensors by name. Safe to share by threads."""

    def __init__(self, folder: Path, manifest: Manifest, mapping: mmap.mmap) -> None:
        self.folder = folder
        self.manifest = manifest
        self.entries: Mapping[str, PackedEntry] = {e.name: e for e in manifest.entries}
        self._mapping = mapping
        # A plain array over the mapping: np.memmap's own class slows every slice.
        self._data = np.frombuffer(mapping, np.uint8)

    @property
    def config(self) -> ModelConfig:
        return self.manifest.config

    @property
    def weights_nbytes(self) -> int:
        return self.manifest.weights_nbytes

    def packed(self, name: str) -> PackedWeight:
        """A matrix or a stack of experts, over the mapped bytes; nothing is copied."""
        entry = self._find(name, is_float=False)
        return PackedWeight(
            self.raw(name), entry.dtype, entry.affine, entry.n_out, entry.n_in, entry.n_experts
        )

    def tensor(self, name: str) -> Tensor:
        """A norm [1, n] or a router [num_experts, dim], copied to float32 rows."""
        return Tensor.from_numpy(self.array(name))

    def array(self, name: str) -> NDArray[np.float32]:
        """float32 [n_out, n_in] of a norm or router."""
        entry = self._find(name, is_float=True)
        return self.raw(name).view(np.float32).reshape(entry.n_out, entry.n_in)

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor, a view of the mapping."""
        entry = self.entries[name]
        return self._data[entry.offset : entry.offset + entry.nbytes]

    def read_ahead(self) -> None:
        """Have the system read the file from its beginning to its end, and return at once: whoever
        meets its pages in another order waits longer. What is in memory is not read again."""
        Thread(target=_read, args=(self._mapping,), name="cierzo-read-ahead", daemon=True).start()

    def _find(self, name: str, *, is_float: bool) -> PackedEntry:
        entry = self.entries.get(name)
        if entry is None or (entry.dtype == "float32") != is_float:
            kind = "float" if is_float else "packed"
            raise ModelFileError(
                f"{self.folder}: has no {kind} tensor {name}; delete the folder and load again"
            )
        return entry


def open_packed(folder: Path) -> PackedFolder:
    """Map a packed folder after checking its manifest, its size and every tensor's edges.

    Raises ModelFileError when anything does not match. Damage in the middle of a tensor
    is `verify_packed`'s to find; it can change answers but never reach outside the file.
    """
    manifest = read_manifest(folder)
    path = folder / WEIGHTS
    try:
        size = path.stat().st_size
        if size != manifest.weights_nbytes:
            raise _damaged(path, f"it has {size} bytes instead of {manifest.weights_nbytes}")
        mapping = _mapped(path)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: cannot be mapped ({error})") from error
    data, position = np.frombuffer(mapping, np.uint8), 0
    for entry in sorted(manifest.entries, key=lambda entry: entry.offset):
        if entry.offset < position or entry.offset % ALIGNMENT:
            raise _damaged(path, f"tensor {entry.name} is misplaced at {entry.offset}")
        position = entry.offset + entry.nbytes
        if position > size:
            raise _damaged(path, f"tensor {entry.name} ends past the file")
        if edge_crc32(data[entry.offset : position]) != entry.edge_crc32:
            raise _damaged(path, f"the bytes of tensor {entry.name} changed")
    return PackedFolder(folder, manifest, mapping)


def _mapped(path: Path) -> mmap.mmap:
    """Read only, in huge pages where the system keeps files so (decision 0082)."""
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with suppress(OSError):  # of a kernel that has no huge pages
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return mapping


def _read(mapping: mmap.mmap) -> None:
    """Until all is read, or the system cannot: whoever uses the page will see. Through ctypes, as
    `mapping.madvise` would hold up all of Python while the disk reads."""
    madvise, begin = ctypes.CDLL(None).madvise, np.frombuffer(mapping, np.uint8).ctypes.data
    for start in range(0, len(mapping), PIECE_BYTES):
        size = min(PIECE_BYTES, len(mapping) - start)
        if madvise(ctypes.c_void_p(begin + start), ctypes.c_size_t(size), _MADV_POPULATE_READ):
            return


def verify_packed(folder: Path, progress: Progress | None = None) -> None:
    """Read all of weights.bin; raises ModelFileError naming the first damaged tensor."""
    opened = open_packed(folder)
    done_bytes, total_bytes = 0, sum(entry.nbytes for entry in opened.entries.values())
    for name, entry in opened.entries.items():
        if zlib.crc32(opened.raw(name).data) != entry.crc32:
            raise _damaged(folder / WEIGHTS, f"the bytes of tensor {name} changed")
        done_bytes += entry.nbytes
        if progress is not None:
            progress(done_bytes, total_bytes, name)


def edge_crc32(data: NDArray[np.uint8]) -> int:
    """Of the first and last 4096 bytes."""
    return zlib.crc32(data[-EDGE_BYTES:].data, zlib.crc32(data[:EDGE_BYTES].data))


def _checksum(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _damaged(path: Path, what: str) -> ModelFileError:
    return ModelFileError(
        f"{path}: {what}; the packed folder is damaged: delete it and load the model again"
    )
