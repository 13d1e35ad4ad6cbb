"""Finding, naming and describing the parts of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.models.checkpoint import open_checkpoint
from cierzo.models.inspect import inspect_model
from cierzo.models.loading import ensure_packed
from cierzo.models.packing import pack_job
from cierzo.models.weight_names import our_name
from tests.tiny_checkpoints import (
    CHAT_TEMPLATE,
    tiny_model,
    write_consolidated,
    write_gguf,
    write_huggingface,
    write_safetensors,
)


def test_tensors_are_lazy_and_by_our_names(tmp_path: Path) -> None:
    model = tiny_model("mixtral")
    write_gguf(tmp_path / "m.gguf", model)
    checkpoint = open_checkpoint(tmp_path / "m.gguf")
    assert "layers.1.experts.gate_proj" in checkpoint.tensors
    np.testing.assert_array_equal(checkpoint.tensor("norm").floats(), model.weights["norm"])
    with pytest.raises(ModelFileError, match="absent is missing"):
        checkpoint.tensor("absent")


def test_texts_of_a_gguf(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tiny_model(), vocabulary="llama")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.chat_template == CHAT_TEMPLATE and checkpoint.licence == "apache-2.0"
    assert checkpoint.gguf_vocab is not None
    assert checkpoint.gguf_vocab["model"] == "llama"
    assert len(checkpoint.gguf_vocab["scores"]) == 320


def test_texts_of_a_folder(tmp_path: Path) -> None:
    write_huggingface(tmp_path, tiny_model())
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "default", "template": "{{ x }}"}]})
    )
    (tmp_path / "README.md").write_text("---\ntags: []\nlicense: mit\n---\n# Model")
    checkpoint = open_checkpoint(tmp_path)
    assert [p.name for p in checkpoint.tokenizer_files] == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (checkpoint.chat_template, checkpoint.licence) == ("{{ x }}", "mit")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [(["tool_use", "default"], "default"), (["rag"], "rag"), (["rag", "tool_use"], None)],
)
def test_of_several_templates_the_default_one(
    tmp_path: Path, names: list[str], chosen: str | None
) -> None:
    """One rule before packing and after: what the tokenizer will do is what is reported."""
    write_huggingface(tmp_path / "m", tiny_model(n_layers=1))
    templates = [{"name": name, "template": name} for name in names]
    config = tmp_path / "m" / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": templates}))
    assert open_checkpoint(tmp_path / "m").chat_template == chosen
    packed = ensure_packed(tmp_path / "m")
    assert inspect_model(packed).has_chat_template == (chosen is not None)


def test_mistrals_first_tokenizer_gets_its_version(tmp_path: Path) -> None:
    write_consolidated(tmp_path, tiny_model())
    (tmp_path / "tokenizer.model").write_bytes(b"spm")
    assert list(pack_job(open_checkpoint(tmp_path), "auto").files) == ["tokenizer.model.v1"]


def test_both_formats_in_one_folder(tmp_path: Path) -> None:
    """Vendors ship both; the Hugging Face files win when their weights are there."""
    write_consolidated(tmp_path, tiny_model())
    (tmp_path / "config.json").write_text("{}")
    assert open_checkpoint(tmp_path).files.format == "consolidated"
    write_huggingface(tmp_path, tiny_model())
    assert open_checkpoint(tmp_path).files.format == "huggingface"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.3.mlp.down_proj.weight", "layers.3.down_proj"),
        ("language_model.lm_head.weight", "output"),
        ("model.language_model.norm.weight", "norm"),
        ("model.vision_tower.patch.weight", None),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", None),
    ],
)
def test_huggingface_names(name: str, expected: str | None) -> None:
    assert our_name(name, "huggingface") == expected


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.007.mlp.down_proj.weight",
        "model.layers.-1.mlp.down_proj.weight",
        "model.layers.mlp.down_proj.weight",
        "",
    ],
)
def test_names_of_nothing_we_run(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="belongs to no model"):
        our_name(name, "huggingface")


def damaged(tmp_path: Path, **changes: tuple[int, ...] | None) -> Path:
    """A Hugging Face folder with tensors of other shapes, or (None) without them."""
    model = tiny_model(n_layers=1)
    write_huggingface(tmp_path, model, dtype="f32")
    tensors = {
        tensor.name: tensor.floats() for tensor in open_checkpoint(tmp_path).tensors.values()
    }
    for name, shape in changes.items():
        if shape is None:
            del tensors[name.replace("__", ".")]
        else:
            tensors[name.replace("__", ".")] = np.zeros(shape, np.float32)
    write_safetensors(tmp_path / "model.safetensors", tensors, "f32")
    return tmp_path


def test_a_missing_tensor(tmp_path: Path) -> None:
    folder = damaged(tmp_path, model__layers__0__self_attn__k_proj__weight=None)
    with pytest.raises(ModelFileError, match=r"layers\.0\.k_proj is missing"):
        pack_job(open_checkpoint(folder), "auto")


def test_a_tensor_of_another_shape(tmp_path: Path) -> None:
    folder = damaged(tmp_path, model__layers__0__mlp__up_proj__weight=(96, 32))
    with pytest.raises(ModelFileError, match=r"up_proj.*shape \[96, 32\].*needs \[96, 64\]"):
        pack_job(open_checkpoint(folder), "auto")


def test_a_tensor_too_many(tmp_path: Path) -> None:
    folder = damaged(tmp_path, model__layers__5__input_layernorm__weight=(64,))
    with pytest.raises(ModelFileError, match="1 tensors that a model of this configuration"):
        pack_job(open_checkpoint(folder), "auto")


def test_one_tensor_under_two_names(tmp_path: Path) -> None:
    folder = damaged(tmp_path, language_model__lm_head__weight=(320, 64))
    with pytest.raises(ModelFileError, match="are both the model's output"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("files", "error", "what"),
    [
        (["config.json"], ModelFileError, "safetensors files are missing"),
        (["notes.txt"], ModelFileError, "config.json or params.json"),
        (["a.gguf", "b.gguf"], ModelFileError, "several models"),
        (["config.json", "pytorch_model.bin"], UnsupportedModelError, "run code when opened"),
        (["params.json", "consolidated.00.pth"], UnsupportedModelError, "run code when opened"),
        (["params.json"], ModelFileError, "consolidated.safetensors: is missing"),
        (
            ["config.json", "model-00001-of-00002.safetensors"],
            ModelFileError,
            "index of the shards",
        ),
    ],
)
def test_folders_that_hold_no_model(
    tmp_path: Path, files: list[str], error: type[Exception], what: str
) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(error, match=what):
        open_checkpoint(tmp_path)


def test_a_file_of_no_known_kind(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(UnsupportedModelError, match=r"not a \.gguf or \.safetensors"):
        open_checkpoint(tmp_path / "model.onnx")


def test_a_readme_of_empty_lines_is_read_at_once(tmp_path: Path) -> None:
    write_huggingface(tmp_path, tiny_model(n_layers=1))
    # A sixteenth of these lines took a minute.
    (tmp_path / "README.md").write_text("---" + "\n" * 2**18 + "license: mit")
    assert open_checkpoint(tmp_path).licence is None
