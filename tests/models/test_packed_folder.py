"""The packed folder opens by its manifest, and notices what does not match."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cierzo import kernels
from cierzo.errors import ModelFileError
from cierzo.models.loading import ensure_packed
from cierzo.models.packed_folder import open_packed, verify_packed
from tests.tiny_checkpoints import CHAT_TEMPLATE, BlockType, tiny_model, write_gguf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "m.gguf", tiny_model("mixtral"), block_type=BlockType.Q4_1)
    return ensure_packed(tmp_path / "m.gguf")


def test_gives_native_weights(folder: Path) -> None:
    packed = open_packed(folder)
    weight = packed.packed("layers.1.experts.down_proj")
    assert (weight.dtype, weight.affine, weight.n_experts) == ("int4", True, 4)
    assert (weight.n_out, weight.n_in) == (64, 96)
    assert weight.nbytes == 4 * kernels.packed_nbytes("int4", True, 64, 96)
    np.testing.assert_array_equal(
        packed.tensor("layers.0.router").numpy(), packed.array("layers.0.router")
    )
    assert packed.tensor("norm").numpy().shape == (1, 64)


def test_weights_outlive_the_folder_object(folder: Path) -> None:
    weight = open_packed(folder).packed("embedding")
    assert weight.nbytes > 0 and weight.n_out == 320


def test_keeps_the_tokenizer_and_template(folder: Path) -> None:
    vocab = json.loads((folder / "gguf_vocab.json").read_text())
    assert vocab["model"] == "gpt2" and vocab["pre"] == "smollm"
    assert len(vocab["tokens"]) == len(vocab["token_types"]) == 320
    assert vocab["merges"] == ["h e", "l l"]
    assert (vocab["bos_token_id"], vocab["eos_token_id"]) == (1, 2)
    assert vocab["add_bos_token"] is False and vocab["chat_template"] == CHAT_TEMPLATE
    assert (folder / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_asking_for_the_wrong_tensor(folder: Path) -> None:
    packed = open_packed(folder)
    for name in ("layers.9.qkv_proj", "norm"):
        with pytest.raises(ModelFileError, match="no packed tensor"):
            packed.packed(name)
    with pytest.raises(ModelFileError, match="no float tensor"):
        packed.tensor("embedding")


def flip(folder: Path, offset: int) -> None:
    raw = bytearray((folder / "weights.bin").read_bytes())
    raw[offset] ^= 0x10
    (folder / "weights.bin").write_bytes(raw)


def test_a_flipped_edge_is_noticed_on_opening(folder: Path) -> None:
    entry = open_packed(folder).entries["layers.0.qkv_proj"]
    flip(folder, entry.offset + entry.nbytes - 3)
    with pytest.raises(ModelFileError, match=r"layers\.0\.qkv_proj changed"):
        open_packed(folder)


def test_a_flipped_middle_is_noticed_by_verify(folder: Path) -> None:
    entry = open_packed(folder).entries["embedding"]
    assert entry.nbytes > 3 * 4096
    flip(folder, entry.offset + entry.nbytes // 2)
    open_packed(folder)
    with pytest.raises(ModelFileError, match="embedding changed"):
        verify_packed(folder)


def test_another_format_version_says_what_to_do(folder: Path) -> None:
    from cierzo.models import packed_folder

    outer = json.loads((folder / "cierzo.json").read_text())
    outer["model"]["format_version"] = 99
    outer["sha256"] = packed_folder._checksum(outer["model"])
    (folder / "cierzo.json").write_text(json.dumps(outer))
    with pytest.raises(ModelFileError, match=r"packed format 99.*load the model again"):
        open_packed(folder)


def test_missing_weights(folder: Path) -> None:
    (folder / "weights.bin").unlink()
    with pytest.raises(ModelFileError, match="cannot be mapped"):
        open_packed(folder)
