"""Checkpoint → packed folder, streamed: one chunk of rows in memory at a time.

The folder is written under another name and renamed into place whole, so that nobody
ever sees half of one. Knows neither file formats nor the forward pass.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cierzo.config import ModelConfig
from cierzo.errors import DiskFullError, ModelFileError, SettingError
from cierzo.models.checkpoint import Checkpoint
from cierzo.models.packed_folder import (
    MANIFEST,
    WEIGHTS,
    Manifest,
    Progress,
    is_packed_folder,
    open_packed,
)
from cierzo.models.packed_weights import write_weights
from cierzo.models.quantization import RequestedDtype
from cierzo.models.stored_types import Float32
from cierzo.models.weight_plan import PlannedTensor, plan_weights

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class PackJob:
    """What goes into a packed folder. `arrays` holds float32 tensors that no file has.

    `files` are copied under the given names, `texts` written.
    """

    config: ModelConfig
    planned: list[PlannedTensor]
    dtype: RequestedDtype
    source: str
    fingerprint: list[dict[str, Any]]
    licence: str | None
    files: Mapping[str, Path]
    texts: Mapping[str, str]
    arrays: Mapping[str, Float32] = field(default_factory=dict)


def pack_job(checkpoint: Checkpoint, dtype: RequestedDtype) -> PackJob:
    """The plan for one checkpoint, shapes checked; nothing is read or written yet."""
    if dtype not in ("auto", "int4", "int8", "bf16"):
        raise SettingError(f"dtype must be auto, int4, int8 or bf16, got {dtype!r}")
    files = checkpoint.files
    planned = plan_weights(
        checkpoint.config,
        checkpoint.tensors,
        str(files.source),
        has_interleaved_rope=checkpoint.has_interleaved_rope,
    )
    copied = {path.name: path for path in files.tokenizer_files}
    if files.format == "consolidated" and not any(
        n.startswith("tokenizer.model.v") for n in copied
    ):
        # Mistral's first models named their only tokenizer without its version.
        if "tokenizer.model" in copied:
            copied["tokenizer.model.v1"] = copied.pop("tokenizer.model")
    if files.licence_file is not None:
        copied["LICENSE"] = files.licence_file
    texts = {}
    if checkpoint.gguf_vocab is not None:
        texts["gguf_vocab.json"] = json.dumps(checkpoint.gguf_vocab)
        if checkpoint.chat_template is not None:
            texts["chat_template.jinja"] = checkpoint.chat_template
    return PackJob(
        checkpoint.config,
        planned,
        dtype,
        str(files.source),
        files.fingerprint(),
        checkpoint.licence,
        copied,
        texts,
    )


def write_packed(job: PackJob, out: Path, progress: Progress | None = None) -> Path:
    """Write the packed folder `out`, replacing a packed folder of that name.

    Raises DiskFullError when there is no room (nothing is left behind), SettingError
    when `out` is something else, ModelFileError when the source is damaged.
    """
    if out.exists() and not is_packed_folder(out) and (not out.is_dir() or any(out.iterdir())):
        raise SettingError(f"{out}: exists and is not a packed folder; choose another place")
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with _building_folder(out) as building:
            with (building / WEIGHTS).open("w+b", buffering=0) as file:
                entries, nbytes = write_weights(
                    file, job.planned, job.dtype, job.arrays, progress or _silent
                )
                os.fsync(file.fileno())
            for name, path in job.files.items():
                shutil.copyfile(path, building / name)
            for name, text in job.texts.items():
                (building / name).write_text(text, encoding="utf-8")
            manifest = Manifest(
                job.config, job.dtype, job.source, job.fingerprint, job.licence, nbytes, entries
            )
            (building / MANIFEST).write_bytes(manifest.to_bytes())
            _publish(building, out, job)
    return out


def _silent(done_bytes: int, total_bytes: int, name: str) -> None:
    """No progress wanted."""


@contextlib.contextmanager
def _building_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` to build it in, gone at the end unless it was renamed.

    It is locked as long as this process lives: so those of packers that were killed, each as
    large as a model, are told from those at work, and removed first.
    """
    for left_over in out.parent.iterdir():
        if left_over.name.startswith(_building_prefix(out)):
            with _locked(left_over, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_ours:
                if is_ours:
                    shutil.rmtree(left_over, ignore_errors=True)
    while True:
        building = Path(tempfile.mkdtemp(prefix=_building_prefix(out), dir=out.parent))
        with _locked(building, fcntl.LOCK_EX):
            if not building.exists():
                continue  # another process locked and removed it before we could
            building.chmod(0o755)
            try:
                yield building
            finally:
                shutil.rmtree(building, ignore_errors=True)
            return


def _building_prefix(out: Path) -> str:
    return f".{out.name}.packing-"


@contextlib.contextmanager
def _locked(folder: Path, how: int) -> Iterator[bool]:
    """Hold a folder; False where another process does, it is gone, or nothing can be locked."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, how)
        is_ours = True
    except OSError:
        is_ours = False
    try:
        yield is_ours
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise SettingError(
                f"{out}: cannot be written ({error}); choose another place"
            ) from error
        raise DiskFullError(
            f"{out}: no room left on the disk to write it; free some space or choose "
            "another place. Nothing was left behind"
        ) from error


def is_current(folder: Path, fingerprint: list[dict[str, Any]], dtype: str) -> bool:
    """Whether `folder` is a sound packed folder made from files with this fingerprint."""
    if not is_packed_folder(folder):
        return False
    try:
        manifest = open_packed(folder).manifest
    except ModelFileError:
        return False  # damaged, or of an older format: made again
    return manifest.fingerprint == fingerprint and manifest.dtype == dtype


def _publish(building: Path, out: Path, job: PackJob) -> None:
    """Rename into place; a stale folder that is there is moved aside and deleted.

    When another process packed the same meanwhile, its folder stays: somebody may be
    opening it. Maps of a deleted folder stay valid until closed.
    """
    for _ in range(100):
        try:
            building.rename(out)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if is_current(out, job.fingerprint, job.dtype):
            return
        aside = Path(tempfile.mkdtemp(prefix=_building_prefix(out), dir=out.parent))
        with contextlib.suppress(FileNotFoundError):
            out.rename(aside / "old")
        shutil.rmtree(aside, ignore_errors=True)
    raise SettingError(f"{out}: other processes keep replacing it; stop them and try again")
