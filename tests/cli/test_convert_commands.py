"""inspect, quantize and upcycle on a tiny GGUF, as a person would type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cierzo.cli import run
from cierzo.config import MoeConfig
from cierzo.models.packed_folder import read_manifest
from tests.tiny_checkpoints import tiny_model, write_gguf


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"))
    return tmp_path / "tiny.gguf"


def test_inspect_says_what_it_is(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(gguf), "--json", "--context", "100"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["architecture"] == "llama"
    assert report["will_run"] is True
    assert "KV cache at 100 tokens" in report
    assert run(["inspect", str(gguf)]) == 0
    assert "will run here" in capsys.readouterr().out


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
