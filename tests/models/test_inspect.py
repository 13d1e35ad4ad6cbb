"""Reports say what a file is, and why it will not run when it will not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cierzo.errors import ModelFileError
from cierzo.models import inspect
from cierzo.models.inspect import inspect_model
from cierzo.models.loading import ensure_packed
from tests.tiny_checkpoints import (
    BlockType,
    tiny_model,
    write_gguf,
    write_huggingface,
)


def test_a_sparse_gguf(tmp_path: Path) -> None:
    model = tiny_model("mixtral")
    write_gguf(tmp_path / "m.gguf", model, block_type=BlockType.Q4_1)
    report = inspect_model(tmp_path / "m.gguf", context_length=100)
    total = sum(array.size for array in model.weights.values())
    experts = sum(a.size for name, a in model.weights.items() if ".experts." in name)
    assert report.total_parameters == total
    assert report.active_parameters == total - experts // 2, "2 of 4 experts work on a token"
    assert [entry.type_name for entry in report.tensors] == ["Q4_1", "F32"]
    assert report.architecture == "mixtral" and report.format == "gguf"
    assert report.context_length == 100
    assert report.kv_cache_nbytes == 112 * 2 * 2 * 2 * 32 * 2, "in blocks of 16 tokens"
    assert report.tokenizer == "GGUF gpt2 (smollm)"
    assert report.has_chat_template and report.licence == "apache-2.0"
    assert report.will_run and report.worst_relative_error is None


def test_packed_and_unpacked_agree(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tiny_model("mixtral"))
    before = inspect_model(tmp_path / "m.gguf")
    after = inspect_model(ensure_packed(tmp_path / "m.gguf"))
    assert after.format == "packed" and after.worst_relative_error == 0.0
    for name in (
        "config",
        "total_parameters",
        "active_parameters",
        "weights_nbytes",
        "kv_cache_nbytes",
        "tokenizer",
        "has_chat_template",
        "licence",
    ):
        assert getattr(before, name) == getattr(after, name), name


def test_the_dtype_decides_the_memory(tmp_path: Path) -> None:
    write_huggingface(tmp_path, tiny_model())
    sizes = [inspect_model(tmp_path, dtype=d).weights_nbytes for d in ("int4", "int8", "bf16")]
    assert None not in sizes and sizes == sorted(sizes, key=lambda size: size or 0)


def test_a_model_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_huggingface(tmp_path, tiny_model())
    monkeypatch.setattr(inspect, "free_memory_bytes", lambda: 2**20)
    report = inspect_model(tmp_path)
    assert not report.will_run and "0.0 GiB are available" in (report.problem or "")


def test_an_architecture_we_do_not_run_still_gets_a_report(tmp_path: Path) -> None:
    write_huggingface(tmp_path, tiny_model())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    report = inspect_model(tmp_path)
    assert report.architecture == "Qwen3ForCausalLM" and not report.will_run
    assert "Qwen3ForCausalLM" in (report.problem or "")
    assert report.total_parameters == sum(a.size for a in tiny_model().weights.values())
    assert report.memory_nbytes is None


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(ModelFileError, match="truncated"):
        inspect_model(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tekken.json": '{"config": {"version": "v13"}}'}, "tekken v13"),
        ({"tokenizer.model.v3": "", "tokenizer.json": "{}"}, "sentencepiece v3"),
        ({"tokenizer.json": "{}"}, "tokenizer.json"),
        ({}, None),
    ],
    ids=str,
)
def test_tokenizers(tmp_path: Path, files: dict[str, str], expected: str | None) -> None:
    write_huggingface(tmp_path, tiny_model(n_layers=1))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert inspect_model(tmp_path).tokenizer == expected
