"""Where packed folders go, and when they are made again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cierzo.errors import ModelNotFoundError, SettingError
from cierzo.models.loading import ensure_packed, quantize
from cierzo.models.packed_folder import open_packed
from tests.tiny_checkpoints import tiny_model, write_gguf, write_huggingface


def inode(folder: Path) -> int:
    return (folder / "weights.bin").stat().st_ino


def test_the_second_time_is_from_the_cache(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tiny_model(n_layers=1))
    first = ensure_packed(tmp_path / "m.gguf")
    assert first == tmp_path / "m.auto.cierzo"
    made = inode(first)
    assert ensure_packed(tmp_path / "m.gguf") == first and inode(first) == made
    assert ensure_packed(first) == first, "a packed folder is run as it is"
    assert ensure_packed(tmp_path / "m.gguf", "int8") == tmp_path / "m.int8.cierzo"


def test_a_changed_source_is_packed_again(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "m", tiny_model(n_layers=1))
    folder = ensure_packed(tmp_path / "m")
    made = inode(folder)
    write_huggingface(tmp_path / "m", tiny_model(n_layers=1, seed=5))
    assert ensure_packed(tmp_path / "m") == folder and inode(folder) != made


def test_a_damaged_cache_is_packed_again(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "m", tiny_model(n_layers=1))
    folder = ensure_packed(tmp_path / "m")
    (folder / "cierzo.json").write_text("{")
    open_packed(ensure_packed(tmp_path / "m"))


def test_a_source_that_cannot_be_written_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_only = tmp_path / "shared"
    write_gguf(read_only / "m.gguf", tiny_model(n_layers=1))
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != read_only and allowed(path, mode)
    )
    cache = tmp_path / "cache"
    folder = ensure_packed(read_only / "m.gguf", cache_dir=cache)
    assert folder.parent == cache and folder.name.endswith("-m.auto.cierzo")
    assert ensure_packed(read_only / "m.gguf", cache_dir=cache) == folder


def test_a_packed_folder_has_one_dtype(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tiny_model(n_layers=1))
    folder = quantize(tmp_path / "m.gguf", tmp_path / "out", "int8")
    assert ensure_packed(folder, "int8") == folder
    with pytest.raises(SettingError, match="packed as int8"):
        ensure_packed(folder, "int4")
    with pytest.raises(SettingError, match="packed already"):
        quantize(folder, tmp_path / "again", "int4")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or folder"):
        ensure_packed(tmp_path / "absent")
