"""A name becomes a file: here already, fetched, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cierzo import hub
from cierzo.cli.obtain import obtain
from cierzo.errors import ModelNotFoundError
from tests.hub.test_models_dir import put


def test_what_is_here_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hub, "pull")
    name = "hf:o/b:m.gguf"
    model = put(tmp_path, name)
    assert obtain(name, tmp_path) == model.path
    assert obtain(str(model.path), tmp_path) == model.path


def test_what_is_known_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "pull", lambda name, progress, home: put(home, name))
    assert obtain("mixtral-8x7b-instruct", tmp_path).name == "m.gguf"


def test_what_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model 'nonsense'"):
        obtain("nonsense", tmp_path)
