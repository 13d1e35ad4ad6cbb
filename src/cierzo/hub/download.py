"""One file from a URL to the disk: resumed where an earlier try stopped, checked before it counts.

Bytes go to `<file>.part`; the name `<file>` appears only once size and hash are right.
`huggingface_hub` itself no longer resumes across processes, hence this loop over its HTTP session.
Knows nothing of repositories.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub.utils import hf_raise_for_status, http_stream_backoff

from cierzo.errors import ChecksumError, DiskFullError, HubError, HubOfflineError

_CHUNK_BYTES = 1 << 20
_TRIES_WITHOUT_PROGRESS = 3
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNREACHABLE = (
    httpx2.NetworkError,
    httpx2.TimeoutException,
    httpx2.RemoteProtocolError,
    httpx2.ProxyError,
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the bytes must be: `sha256`, or git's blob hash for files not in large storage."""

    size_bytes: int
    sha256: str | None = None
    git_sha1: str | None = None


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" into DiskFullError naming the disk; what was written stays."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise DiskFullError(
            f"no room left on the disk of {path} ({os.strerror(error.errno or 0)}): free some"
            " space and run"
            " the same command again (what has arrived is kept), or set CIERZO_HOME to a larger"
            " disk"
        ) from error


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuse a write that cannot fit, before its first byte. Raises DiskFullError."""
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise DiskFullError(
            f"{needed_bytes / 1e6:,.0f} MB are needed in {folder} and {free / 1e6:,.0f} MB are"
            " free:"
            " free some space, or set CIERZO_HOME to a larger disk"
        )


def download(
    url: str,
    target: Path,
    expected: Expected,
    headers: Mapping[str, str],
    progress: Callable[[int], None],
) -> None:
    """Fetch `url` to `target`, continuing `<target>.part` if any; `progress` gets bytes done.

    Raises HubOfflineError (unreachable, or cut off again and again), ChecksumError (the part is
    deleted), DiskFullError (the part is kept).
    """
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    if part.exists() and part.stat().st_size > expected.size_bytes:
        part.unlink()
    failures = 0
    have = _size(part)
    while have < expected.size_bytes or not part.exists():
        reason: Exception | None = None
        try:
            _fetch_rest(url, part, have, expected.size_bytes, headers, progress)
        except _UNREACHABLE as error:
            reason = error
        before, have = have, _size(part)
        failures = 0 if have > before else failures + 1
        if failures >= _TRIES_WITHOUT_PROGRESS:
            raise HubOfflineError(
                f"{httpx2.URL(url).host} cannot be reached for {target.name} ({reason}): check"
                " the network"
                " or HF_ENDPOINT and run the same command again (what has arrived is kept)"
            ) from reason
        if have < expected.size_bytes:
            time.sleep(0.1 * 2**failures)
    verify(part, expected, target.name)
    part.replace(target)


def verify(path: Path, expected: Expected, name: str) -> None:
    """Compare size and hash; on a difference delete `path` and raise ChecksumError."""
    size = path.stat().st_size
    want = expected.sha256 or expected.git_sha1 or ""
    digest = hashlib.sha256() if expected.sha256 else hashlib.sha1(usedforsecurity=False)
    if not expected.sha256:
        digest.update(f"blob {size}\0".encode())
    with path.open("rb") as file:
        while want and (chunk := file.read(_CHUNK_BYTES)):
            digest.update(chunk)
    if size == expected.size_bytes and (not want or digest.hexdigest() == want):
        return
    path.unlink()
    raise ChecksumError(
        f"{name} arrived as {size} bytes with hash {digest.hexdigest()}, promised were"
        f" {expected.size_bytes} bytes with hash {want or '(none)'}: it was deleted; run the same"
        " command again,"
        " and if it happens twice do not trust the source"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch_rest(
    url: str,
    part: Path,
    have: int,
    size: int,
    headers: Mapping[str, str],
    progress: Callable[[int], None],
) -> None:
    # identity: with a compressed body neither offsets nor sizes would mean anything.
    ask = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with http_stream_backoff(
        "GET", url, headers=ask, timeout=30.0, max_retries=2, retry_on_exceptions=()
    ) as response:
        hf_raise_for_status(response)
        start = have if response.status_code == 206 else 0
        with disk_errors(part), part.open("r+b" if start else "wb") as file:
            file.seek(start)
            done = start
            for chunk in response.iter_bytes():
                done += len(chunk)
                if done > size:
                    raise HubError(f"{url} sends more than the {size} bytes it promised: not kept")
                file.write(chunk)
                progress(done)
