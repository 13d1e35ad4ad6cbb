"""From any source to a packed folder that is ready to run: found in the cache, or made.

The cache is beside the source, or in a cache folder where that cannot be written.
Knows neither names of the catalogue nor the environment: callers pass paths.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cierzo.errors import SettingError
from cierzo.models.checkpoint import open_checkpoint
from cierzo.models.packed_folder import Progress, is_packed_folder, read_manifest
from cierzo.models.packing import is_current, pack_job, write_packed
from cierzo.models.quantization import RequestedDtype
from cierzo.models.source_files import SourceFiles, find_source_files

DEFAULT_CACHE = Path("~/.cache/cierzo/packed")


def ensure_packed(
    source: Path,
    dtype: RequestedDtype = "auto",
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """The packed folder of `source` at `dtype`; packs it the first time, or when it changed.

    `source` is a .gguf file, a checkpoint folder, or a packed folder (returned as it is).
    Raises ModelNotFoundError, ModelFileError, UnsupportedModelError, DiskFullError, and
    SettingError for a dtype that a packed folder does not have.
    """
    if is_packed_folder(source):
        packed_as = read_manifest(source).dtype
        if dtype not in ("auto", packed_as):
            raise SettingError(
                f"{source}: is packed as {packed_as}; ask for dtype auto or {packed_as}, "
                "or name the original model"
            )
        return source
    if (folder := find_packed(source, dtype, cache_dir=cache_dir)) is not None:
        return folder
    beside, elsewhere = cached_folders(find_source_files(source), dtype, cache_dir)
    out = beside if os.access(beside.parent, os.W_OK) else elsewhere
    return write_packed(pack_job(open_checkpoint(source), dtype), out, progress)


def find_packed(
    source: Path, dtype: RequestedDtype = "auto", *, cache_dir: Path | None = None
) -> Path | None:
    """The packed folder that `ensure_packed` would return without packing, or None."""
    if is_packed_folder(source):
        return source
    files = find_source_files(source)
    fingerprint = files.fingerprint()
    folders = cached_folders(files, dtype, cache_dir)
    return next((f for f in folders if is_current(f, fingerprint, dtype)), None)


def quantize(
    source: Path, out: Path, dtype: RequestedDtype, progress: Progress | None = None
) -> Path:
    """Write the packed folder of `source` at `dtype` to `out`; errors as `ensure_packed`."""
    if is_packed_folder(source):
        raise SettingError(f"{source}: is packed already; quantize from the original model")
    return write_packed(pack_job(open_checkpoint(source), dtype), out, progress)


def cached_folders(
    files: SourceFiles, dtype: RequestedDtype, cache_dir: Path | None = None
) -> tuple[Path, Path]:
    """Where the packed folder of a source goes: beside it, else in the cache folder."""
    name = f"{files.name}.{dtype}.cierzo"
    place = hashlib.sha256(str(files.source.parent).encode()).hexdigest()[:12]
    cache = cache_dir if cache_dir is not None else DEFAULT_CACHE.expanduser()
    return files.source.parent / name, cache / f"{place}-{name}"
