"""The GGUF header reader against the `gguf` package, and against files that lie."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.models.gguf_file import read_gguf
from tests.tiny_checkpoints import BlockType, tiny_model, write_gguf

STRING, ARRAY, UINT32 = 8, 9, 4


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def header(*, tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def tensor(name: str = "t", dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def write(path: Path, *parts: bytes, padding: int = 4096) -> Path:
    path.write_bytes(b"".join(parts) + bytes(padding))
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_equals_the_gguf_package(tmp_path: Path, version: int) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, tiny_model("mixtral"), block_type=BlockType.Q5_1, vocabulary="llama")
    raw = bytearray(path.read_bytes())
    raw[4] = version
    path.write_bytes(raw)
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    for name, field in theirs.fields.items():
        if name.startswith("GGUF."):
            continue
        value = ours.metadata[name]
        plain = value.tolist() if isinstance(value, np.ndarray) else value
        expected = field.contents()
        if isinstance(plain, float):
            assert np.float32(plain) == np.float32(expected), name
        else:
            assert plain == expected, name
    assert len(ours.metadata) == len(theirs.fields) - 3
    assert len(ours.tensors) == len(theirs.tensors)
    for entry in theirs.tensors:
        found = ours.tensors[entry.name]
        assert found.shape == tuple(entry.shape.tolist()[::-1])
        assert (found.type_name, found.offset, found.nbytes) == (
            entry.tensor_type.name,
            entry.data_offset,
            entry.n_bytes,
        )


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ((b"GGML",), "no GGUF file"),
        ((header(tensors=2**63),), "cannot fit"),
        ((header(keys=2**64 - 1),), "cannot fit"),
        ((header(keys=1), struct.pack("<Q", 2**63)), "truncated or damaged"),
        ((header(keys=1), text("k"), struct.pack("<I", 77)), "type 77"),
        ((header(keys=1), text("k"), struct.pack("<IIQ", ARRAY, UINT32, 2**62)), "cannot fit"),
        ((header(keys=1), text("k"), struct.pack("<IIQ", ARRAY, STRING, 2**61)), "cannot fit"),
        ((header(keys=1), struct.pack("<Q", 2) + b"\xff\xfe"), "not UTF-8"),
        ((header(keys=2), (text("k") + struct.pack("<II", UINT32, 1)) * 2), "twice"),
        (
            (header(keys=1), text("general.alignment") + struct.pack("<II", UINT32, 33)),
            "power of two",
        ),
        (
            (header(keys=1), text("general.alignment") + struct.pack("<II", UINT32, 0)),
            "power of two",
        ),
        ((header(tensors=1), tensor(dims=())), "0 axes"),
        ((header(tensors=1), tensor(dims=(1,) * 5)), "5 axes"),
        ((header(tensors=1), tensor(dims=(0, 4))), "positive"),
        ((header(tensors=1), tensor(dims=(2**40, 2**40))), "needs bytes up to"),
        ((header(tensors=1), tensor(dims=(2**32, 2**32, 2**32))), "needs bytes up to"),
        ((header(tensors=1), tensor(dims=(33,), kind=2)), "multiples of 32"),
        ((header(tensors=1), tensor(offset=2**64 - 32)), "needs bytes up to"),
        ((header(tensors=1), tensor(offset=8)), "not aligned"),
        ((header(tensors=1), tensor(kind=99)), "type 99"),
        ((header(tensors=2), tensor("a"), tensor("b", offset=96)), "overlaps"),
        ((header(tensors=2), tensor("a"), tensor("a", offset=128)), "twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_lies_are_refused(tmp_path: Path, parts: tuple[bytes, ...], rule: str) -> None:
    with pytest.raises(ModelFileError, match=rule):
        read_gguf(write(tmp_path / "m.gguf", *parts))


def test_nested_arrays_end(tmp_path: Path) -> None:
    nested = struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQ", ARRAY, 1) * 50
    with pytest.raises(ModelFileError, match="type 9"):
        read_gguf(write(tmp_path / "m.gguf", header(keys=1), text("k"), nested))


def test_unsupported_kinds_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="IQ4_XS"):
        read_gguf(write(tmp_path / "a", header(tensors=1), tensor(dims=(256,), kind=23)))
    with pytest.raises(UnsupportedModelError, match="version 1"):
        read_gguf(write(tmp_path / "b", header(version=1)))
    with pytest.raises(UnsupportedModelError, match="big-endian"):
        read_gguf(write(tmp_path / "c", header(version=3 << 24)))
    split = text("split.count") + struct.pack("<II", UINT32, 3)
    with pytest.raises(UnsupportedModelError, match="gguf-split --merge"):
        read_gguf(write(tmp_path / "d", header(keys=1), split))


def test_the_largest_honest_tensor_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", header(tensors=1), tensor(dims=(32, 4)), padding=0)
    start = -(-path.stat().st_size // 32) * 32
    with path.open("ab") as file:
        file.truncate(start)
        file.seek(start)
        file.write(np.arange(128, dtype=np.float32).tobytes())
    found = read_gguf(path).tensors["t"]
    np.testing.assert_array_equal(found.floats(), np.arange(128).reshape(4, 32))
    with path.open("ab") as file:
        file.truncate(start + 511)
    with pytest.raises(ModelFileError, match="needs bytes up to"):
        read_gguf(path)
