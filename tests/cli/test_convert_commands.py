"""inspect, quantize and upcycle on a tiny GGUF, as a person would type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cierzo.cli import run
from cierzo.config import MoeConfig
from cierzo.models.loading import ensure_packed
from cierzo.models.packed_folder import open_packed, read_manifest
from tests.tiny_checkpoints import tiny_model, write_gguf


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"))
    return tmp_path / "tiny.gguf"


def test_inspect_says_what_it_is(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(gguf), "--context", "100"]) == 0
    shown = capsys.readouterr().out
    assert "will run here" in shown and "KV cache at 100 tokens" in shown


def test_inspect_tells_programs_numbers(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model("llama")
    assert run(["inspect", str(gguf), "--json", "--context", "100"]) == 0
    report = json.loads(capsys.readouterr().out)
    total = sum(array.size for array in model.weights.values())
    assert report["parameters"] == report["active_parameters"] == total
    assert sum(kind["count"] for kind in report["tensors"].values()) == len(model.weights)
    assert sum(kind["bytes"] for kind in report["tensors"].values()) > total // 2
    assert report["context_length"] == 100
    assert report["kv_cache_bytes"] == model.config.kv_bytes(100)
    parts = report["weights_bytes"] + report["kv_cache_bytes"]
    assert report["available_bytes"] > report["memory_bytes"] > parts
    assert (report["architecture"], report["will_run"], report["problem"]) == ("llama", True, None)
    assert (report["has_chat_template"], report["licence"]) == (True, "apache-2.0")


def test_inspect_verifies_the_packed_copy(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["inspect", str(gguf), "--verify"]
    assert run(command) == 1
    assert "no sound packed copy" in capsys.readouterr().err
    weights = ensure_packed(gguf) / "weights.bin"
    assert run(command) == 0
    said = capsys.readouterr().err
    assert "100 %" in said and "every checksum matches" in said
    damaged = bytearray(weights.read_bytes())
    middle = open_packed(weights.parent).entries["embedding"]
    damaged[middle.offset + middle.nbytes // 2] ^= 1
    weights.write_bytes(damaged)
    for source in (gguf, weights.parent):
        assert run(["inspect", str(source), "--verify"]) == 1
        assert "embedding changed" in capsys.readouterr().err


def test_inspect_refuses_a_damaged_file(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf.write_bytes(gguf.read_bytes()[:100])
    assert run(["inspect", str(gguf)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_quantize_writes_a_packed_folder(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = gguf.with_name("tiny-int8")
    assert run(["quantize", str(gguf), str(out), "--dtype", "int8"]) == 0
    assert read_manifest(out).dtype == "int8"
    captured = capsys.readouterr()
    assert "at int8" in captured.out
    assert "100 %" in captured.err


def test_upcycle_makes_experts(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = gguf.with_name("tiny-sparse")
    arguments = [str(gguf), str(out), "--experts", "4", "--experts-per-token", "2"]
    assert run(["upcycle", *arguments]) == 0
    assert read_manifest(out).config.moe == MoeConfig(4, 2)
    assert "2 of 4 experts" in capsys.readouterr().out


def test_an_unknown_dtype_is_misuse(gguf: Path) -> None:
    assert run(["quantize", str(gguf), str(gguf.with_name("out")), "--dtype", "int3"]) == 2
