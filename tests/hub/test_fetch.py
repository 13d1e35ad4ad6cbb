"""Fetching from a hub, whole and interrupted, honest and not."""

from __future__ import annotations

import resource
import shutil
import threading
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants

from cierzo.errors import (
    ChecksumError,
    DiskFullError,
    HubError,
    HubOfflineError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from cierzo.hub import pull, resolve
from tests.hub.local_hub import LocalHub

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
REPO = "owner/tiny"
NAME = f"hf:{REPO}"
GGUF = f"{NAME}:tiny.Q4_0.gguf"


@pytest.fixture
def tiny(hub: LocalHub) -> LocalHub:
    hub.repos[REPO] = {
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "model.safetensors": WEIGHTS,
        "pytorch_model.bin": WEIGHTS,
        "README.md": b"# tiny",
        "tiny.Q4_0.gguf": WEIGHTS,
    }
    hub.in_git = {"config.json", "tokenizer.json"}
    return hub


def test_only_one_copy_of_the_weights_is_fetched(tiny: LocalHub, tmp_path: Path) -> None:
    model = pull(NAME, home=tmp_path, endpoint=tiny.url)
    assert sorted(tiny.fetched) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (model.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert model.licence == "apache-2.0"
    assert resolve(NAME, home=tmp_path) == model.folder


def test_a_named_file_comes_alone(tiny: LocalHub, tmp_path: Path) -> None:
    model = pull(GGUF, home=tmp_path, endpoint=tiny.url)
    assert tiny.fetched == ["tiny.Q4_0.gguf"]
    assert resolve(GGUF, home=tmp_path) == model.folder / "tiny.Q4_0.gguf"
    assert model.size_bytes == len(WEIGHTS)


def test_a_pulled_model_is_not_asked_for_again(tiny: LocalHub, tmp_path: Path) -> None:
    first = pull(GGUF, home=tmp_path, endpoint=tiny.url)
    again = pull(GGUF, home=tmp_path, endpoint="http://127.0.0.1:9")
    assert again == first


def test_progress_ends_at_the_total(tiny: LocalHub, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    pull(GGUF, lambda *call: seen.append(call), home=tmp_path, endpoint=tiny.url)
    assert seen[-1] == ("tiny.Q4_0.gguf", len(WEIGHTS), len(WEIGHTS))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_a_cut_connection_is_resumed_within_the_run(tiny: LocalHub, tmp_path: Path) -> None:
    tiny.cut_after = [300_000]
    model = pull(GGUF, home=tmp_path, endpoint=tiny.url)
    assert model.path.read_bytes() == WEIGHTS
    assert tiny.ranges == [("tiny.Q4_0.gguf", None), ("tiny.Q4_0.gguf", "bytes=300000-")]


def test_an_abandoned_fetch_is_resumed_by_the_next_run(tiny: LocalHub, tmp_path: Path) -> None:
    tiny.cut_after = [300_000, 0, 0, 0, 0]
    with pytest.raises(HubOfflineError, match="what has arrived is kept"):
        pull(GGUF, home=tmp_path, endpoint=tiny.url)
    with pytest.raises(ModelNotFoundError, match="cierzo pull"):
        resolve(GGUF, home=tmp_path)
    tiny.ranges.clear()
    tiny.cut_after.clear()
    model = pull(GGUF, home=tmp_path, endpoint=tiny.url)
    assert tiny.ranges == [("tiny.Q4_0.gguf", "bytes=300000-")]
    assert model.path.read_bytes() == WEIGHTS


def test_two_revisions_are_never_mixed(tiny: LocalHub, tmp_path: Path) -> None:
    tiny.cut_after = [len(b"{}"), len(b"{}"), 300_000, 0, 0, 0, 0]
    tiny.repos[REPO] |= {"chat_template.jinja": b"{}"}
    with pytest.raises(HubOfflineError):
        pull(NAME, home=tmp_path, endpoint=tiny.url)
    assert tiny.fetched[:3] == ["chat_template.jinja", "config.json", "model.safetensors"]
    del tiny.repos[REPO]["chat_template.jinja"]
    tiny.repos[REPO] |= {"config.json": b"[]", "model.safetensors": WEIGHTS[::-1]}
    tiny.commit = "d" * 40
    tiny.cut_after.clear()
    folder = pull(NAME, home=tmp_path, endpoint=tiny.url).folder
    assert (folder / "config.json").read_bytes() == b"[]"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert not (folder / "chat_template.jinja").exists(), "the new revision has none"


def test_what_a_new_revision_left_alone_is_not_fetched_again(
    tiny: LocalHub, tmp_path: Path
) -> None:
    tiny.cut_after = [len(b"{}"), 300_000, 0, 0, 0, 0]
    with pytest.raises(HubOfflineError):
        pull(NAME, home=tmp_path, endpoint=tiny.url)
    tiny.ranges.clear()
    tiny.cut_after.clear()
    tiny.commit = "d" * 40
    pull(NAME, home=tmp_path, endpoint=tiny.url)
    assert tiny.ranges == [("model.safetensors", "bytes=300000-"), ("tokenizer.json", None)]


def test_a_server_without_ranges_is_started_over(tiny: LocalHub, tmp_path: Path) -> None:
    tiny.cut_after = [300_000]
    tiny.ignore_ranges = True
    model = pull(GGUF, home=tmp_path, endpoint=tiny.url)
    assert model.path.read_bytes() == WEIGHTS


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_wrong_bytes_are_refused_and_deleted(tiny: LocalHub, tmp_path: Path, file: str) -> None:
    tiny.corrupt = {file}
    with pytest.raises(ChecksumError, match=file):
        pull(NAME, home=tmp_path, endpoint=tiny.url)
    assert not list(tmp_path.rglob(f"{file}*"))
    tiny.corrupt.clear()
    assert pull(NAME, home=tmp_path, endpoint=tiny.url).size_bytes == len(WEIGHTS) + 4


def test_an_unreachable_hub_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HubOfflineError, match="HF_ENDPOINT"):
        pull(NAME, home=tmp_path, endpoint="http://127.0.0.1:9")


def test_offline_mode_never_asks(
    tiny: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubOfflineError, match="HF_HUB_OFFLINE"):
        pull(NAME, home=tmp_path, endpoint=tiny.url)
    assert tiny.fetched == []


@contextmanager
def files_no_larger_than(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to let any file grow past this size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_keeps_the_part(tiny: LocalHub, tmp_path: Path) -> None:
    with files_no_larger_than(400_000), pytest.raises(DiskFullError, match="free some space"):
        pull(GGUF, home=tmp_path, endpoint=tiny.url)
    tiny.ranges.clear()
    model = pull(GGUF, home=tmp_path, endpoint=tiny.url)
    assert tiny.ranges == [("tiny.Q4_0.gguf", "bytes=400000-")]
    assert model.path.read_bytes() == WEIGHTS


def test_too_little_room_is_seen_before_the_first_byte(
    tiny: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(DiskFullError, match="1 MB are needed"):
        pull(GGUF, home=tmp_path, endpoint=tiny.url)
    assert tiny.fetched == []


def test_what_the_hub_does_not_have(tiny: LocalHub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no repository 'owner/none'"):
        pull("hf:owner/none", home=tmp_path, endpoint=tiny.url)
    with pytest.raises(ModelNotFoundError, match=r"no file 'q8.gguf'.*tiny.Q4_0.gguf"):
        pull(f"{NAME}:q8.gguf", home=tmp_path, endpoint=tiny.url)
    with pytest.raises(ModelNotFoundError, match="no model 'nonsense' to pull"):
        pull("nonsense", home=tmp_path, endpoint=tiny.url)
    with pytest.raises(ModelNotFoundError, match="not a hub name"):
        pull("hf:owner", home=tmp_path, endpoint=tiny.url)


def test_a_gated_repository_names_the_way_in(tiny: LocalHub, tmp_path: Path) -> None:
    tiny.gated = {REPO}
    with pytest.raises(HubError, match="gated.*HF_TOKEN"):
        pull(NAME, home=tmp_path, endpoint=tiny.url)


def test_file_names_that_leave_the_folder_are_passed_over(hub: LocalHub, tmp_path: Path) -> None:
    hub.repos[REPO] = {"../../out.gguf": WEIGHTS}
    with pytest.raises(UnsupportedModelError):
        pull(NAME, home=tmp_path, endpoint=hub.url)
    assert not list(tmp_path.rglob("*.gguf*"))


def test_a_file_in_the_hubs_own_cache_is_not_fetched(
    tiny: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "hub" / "models--owner--tiny" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "tiny.Q4_0.gguf").write_bytes(WEIGHTS)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    model = pull(GGUF, home=tmp_path, endpoint=tiny.url)
    assert tiny.fetched == []
    assert model.path.read_bytes() == WEIGHTS


def test_two_fetches_at_once_share_one(tiny: LocalHub, tmp_path: Path) -> None:
    fetch = [
        threading.Thread(target=pull, args=(GGUF,), kwargs={"home": tmp_path, "endpoint": tiny.url})
        for _ in range(2)
    ]
    for thread in fetch:
        thread.start()
    for thread in fetch:
        thread.join()
    assert tiny.fetched == ["tiny.Q4_0.gguf"]
    assert resolve(GGUF, home=tmp_path).read_bytes() == WEIGHTS
