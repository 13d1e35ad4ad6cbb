"""safetensors headers that tell the truth, and many that do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cierzo.errors import ModelFileError
from cierzo.models.safetensors_file import read_safetensors, read_sharded
from tests.tiny_checkpoints import tiny_model, write_huggingface, write_safetensors


def write(path: Path, header: Any, nbytes: int) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(nbytes))
    return path


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> Any:
    return {"dtype": dtype, "shape": [4] if shape is None else shape, "data_offsets": [begin, end]}


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    weights = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5, np.float32)}
    for dtype in ("f32", "f16", "bf16"):
        path = tmp_path / f"{dtype}.safetensors"
        write_safetensors(path, weights, "f32" if dtype == "f32" else "bf16")
        tensors = read_safetensors(path)
        assert tensors.keys() == weights.keys()
        for name, array in weights.items():
            np.testing.assert_array_equal(tensors[name].floats(), array)


@pytest.mark.parametrize(
    ("header", "nbytes", "rule"),
    [
        (b"{not json", 0, "not valid JSON"),
        (b"[1, 2, 3]", 0, "JSON object"),
        (b"[" * 100_000, 0, "not valid JSON"),
        ({"a": 5}, 0, "must be an object"),
        ({"a": {"dtype": "F32"}}, 0, "shape is missing"),
        ({"a": entry(0, 16, dtype="F31")}, 16, "safetensors type"),
        ({"a": entry(0, 20)}, 20, "needs 16 bytes"),
        ({"a": entry(16, 0)}, 16, "needs 16 bytes"),
        ({"a": entry(0, 16, [-4])}, 16, "must hold sizes"),
        ({"a": entry(0, 16, [4.0])}, 16, "must hold sizes"),
        ({"a": entry(0, 16, [True] * 4)}, 16, "must hold sizes"),
        ({"a": entry(0, 16, [2**62, 2**62])}, 16, "needs"),
        ({"a": entry(0, 2**66, [2**64])}, 16, "must hold sizes"),
        ({"a": entry(0, 16, [1] * 9)}, 16, "at most 8"),
        ({"a": entry(0, 16), "b": entry(8, 24)}, 24, "starts at byte"),
        ({"a": entry(0, 16), "b": entry(32, 48)}, 48, "starts at byte"),
        ({"a": entry(0, 16)}, 15, "incomplete or the file damaged"),
        ({"a": entry(0, 16)}, 17, "incomplete or the file damaged"),
        (b'{"a": {"dtype": "F32"}, "a": {}}', 0, "twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_lies_are_refused(tmp_path: Path, header: Any, nbytes: int, rule: str) -> None:
    with pytest.raises(ModelFileError, match=rule):
        read_safetensors(write(tmp_path / "m.safetensors", header, nbytes))


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_header_lengths_that_lie(tmp_path: Path, length: int) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}" + bytes(20))
    with pytest.raises(ModelFileError, match="does not fit"):
        read_safetensors(path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_huggingface(tmp_path, tiny_model(), num_shards=3)
    shard = tmp_path / "model-00002-of-00003.safetensors"
    shard.unlink()
    with pytest.raises(ModelFileError, match=r"model-00002-of-00003.*this shard is missing"):
        read_sharded(tmp_path / "model.safetensors.index.json")


def test_an_index_cannot_lead_outside_its_folder(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(ModelFileError, match="not the name"):
        read_sharded(index)


def test_an_index_that_promises_too_much(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", {"a": np.ones(2, np.float32)}, "f32")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"b": "x.safetensors"}}))
    with pytest.raises(ModelFileError, match="but it does not"):
        read_sharded(index)
