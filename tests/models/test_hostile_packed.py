"""Packed folders that lie with a true checksum are refused before the kernels see them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.models.loading import quantize
from cierzo.models.packed_folder import MANIFEST, open_packed
from cierzo.models.packed_shapes import packed_shapes
from tests.tiny_checkpoints import TINY_CONFIGS, tiny_model, write_huggingface

Change = Callable[[Any], Any]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    write_huggingface(tmp_path / "source", tiny_model("mixtral", n_layers=1))
    return quantize(tmp_path / "source", tmp_path / "packed", "bf16")


def rewrite(packed: Path, change: Change) -> None:
    """Change the manifest's body and sign it again, as an attacker would."""
    body = json.loads((packed / MANIFEST).read_bytes())["model"]
    change(body)
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    checksum = hashlib.sha256(canonical.encode()).hexdigest()
    (packed / MANIFEST).write_text(json.dumps({"sha256": checksum, "model": body}))


@pytest.mark.parametrize("name", TINY_CONFIGS)
def test_shapes_are_those_that_are_written(tmp_path: Path, name: str) -> None:
    write_huggingface(tmp_path / "source", tiny_model(name))
    opened = open_packed(quantize(tmp_path / "source", tmp_path / "packed", "int8"))
    assert set(opened.entries) == set(packed_shapes(opened.config))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda body: body.update(config=5.0), "not a model configuration"),
        (lambda body: body.update(config="x"), "not a model configuration"),
        (lambda body: body.update(config=[[1, 2, 3]]), "not a model configuration"),
        (lambda body: body["config"].update(dim=64.0), "dim must be a whole number"),
        (lambda body: body["config"].update(dim=True), "dim must be a whole number"),
        (lambda body: body["config"].update(architecture="gpt"), "architecture must be one of"),
        (lambda body: body["config"].update(sliding_window=[1.5]), "sliding_window"),
        (lambda body: body["config"]["moe"].update(num_experts=4.0), "num_experts"),
        (lambda body: body["config"].update(n_heads=2), "not what the configuration needs"),
        (lambda body: body["tensors"].clear(), "not what the configuration needs"),
        (lambda body: body["tensors"][0].update(name="new"), "not what the configuration needs"),
        (lambda body: body["tensors"][0].update(affine=True), "affine must be false for bf16"),
        (lambda body: body["tensors"].append(body["tensors"][0]), "listed twice"),
    ],
)
def test_signed_lies(packed: Path, change: Change, named: str) -> None:
    rewrite(packed, change)
    with pytest.raises(ModelFileError, match=named):
        open_packed(packed)


def test_heads_that_the_kernels_have_no_room_for(packed: Path) -> None:
    rewrite(packed, lambda body: body["config"].update(head_dim=512))
    with pytest.raises(UnsupportedModelError, match="head_dim over 256"):
        open_packed(packed)
