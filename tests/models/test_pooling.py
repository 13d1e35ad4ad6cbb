"""How a checkpoint makes one vector of a text: read from its file, kept in the packed folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.models.checkpoint import open_checkpoint
from cierzo.models.loading import ensure_packed
from cierzo.models.packed_folder import open_packed
from tests.tiny_checkpoints import tiny_model, write_gguf, write_huggingface


def write_pooling(folder: Path, fields: dict[str, Any] | str) -> Path:
    text = fields if isinstance(fields, str) else json.dumps(fields)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_huggingface(tmp_path, tiny_model())
    return tmp_path


@pytest.mark.parametrize(
    ("chosen", "pooling"),
    [("pooling_mode_lasttoken", "last"), ("pooling_mode_mean_tokens", "mean")],
)
def test_sentence_transformers(folder: Path, chosen: str, pooling: str) -> None:
    others = {"word_embedding_dimension": 64, "pooling_mode_cls_token": False}
    write_pooling(folder, {**others, chosen: True})
    assert open_checkpoint(folder).config.pooling == pooling


def test_a_checkpoint_that_says_nothing(folder: Path) -> None:
    assert open_checkpoint(folder).config.pooling == "last"


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"pooling_mode_cls_token": True}, UnsupportedModelError, "pooling_mode_cls_token"),
        ({}, UnsupportedModelError, "no mode"),
        ({"pooling_mode_mean_tokens": "yes"}, ModelFileError, "true or false"),
        ("[", ModelFileError, "not valid JSON"),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True},
            UnsupportedModelError,
            "pooling_mode_mean_tokens and pooling_mode_lasttoken",
        ),
    ],
)
def test_what_cannot_be_had(
    folder: Path, fields: dict[str, Any] | str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_checkpoint(write_pooling(folder, fields))


def test_gguf(tmp_path: Path) -> None:
    model = tiny_model()
    for pooling in ("last", "mean"):
        model = replace(model, config=replace(model.config, pooling=pooling))
        write_gguf(tmp_path / f"{pooling}.gguf", model)
        assert open_checkpoint(tmp_path / f"{pooling}.gguf").config.pooling == pooling


def test_the_packed_folder_keeps_it_and_follows_a_change(folder: Path) -> None:
    assert open_packed(ensure_packed(folder)).config.pooling == "last"
    write_pooling(folder, {"pooling_mode_mean_tokens": True})
    assert open_packed(ensure_packed(folder)).config.pooling == "mean"
