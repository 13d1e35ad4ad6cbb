"""Upcycling copies the dense layer into every expert, bit for bit, from any format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cierzo.config import MoeConfig
from cierzo.errors import SettingError
from cierzo.models.loading import ensure_packed
from cierzo.models.packed_folder import open_packed
from cierzo.models.upcycle import upcycle
from tests.models.running import logits_of, open_transformer
from tests.tiny_checkpoints import BlockType, tiny_model, write_gguf, write_huggingface


def test_experts_are_the_dense_layer(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tiny_model(), block_type=BlockType.Q4_1)
    dense = open_packed(ensure_packed(tmp_path / "m.gguf"))
    sparse = open_packed(upcycle(tmp_path / "m.gguf", tmp_path / "out", 4, 2, seed=3))
    assert sparse.config.architecture == "mixtral" and sparse.config.moe == MoeConfig(4, 2)
    for name in ("gate_up_proj", "down_proj"):
        experts = sparse.raw(f"layers.1.experts.{name}").reshape(4, -1)
        for expert in experts:
            np.testing.assert_array_equal(expert, dense.raw(f"layers.1.{name}"))
    for name in ("embedding", "layers.0.qkv_proj", "layers.1.feed_forward_norm"):
        np.testing.assert_array_equal(sparse.raw(name), dense.raw(name))
    assert max(entry.relative_error for entry in sparse.manifest.entries) == 0.0


def test_routers_are_random_and_seeded(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "m", tiny_model())
    routers = [
        open_packed(upcycle(tmp_path / "m", tmp_path / str(i), 4, 2, seed=seed)).array(
            f"layers.{layer}.router"
        )
        for i, (seed, layer) in enumerate([(0, 0), (0, 0), (1, 0), (0, 1)])
    ]
    np.testing.assert_array_equal(routers[0], routers[1])
    assert routers[0].shape == (4, 64) and np.unique(routers[0]).size == 256
    assert not np.array_equal(routers[0], routers[2])
    assert not np.array_equal(routers[0], routers[3])


def test_a_second_recipe_replaces_the_first(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "m", tiny_model(n_layers=1))
    upcycle(tmp_path / "m", tmp_path / "out", 4, 2)
    assert open_packed(upcycle(tmp_path / "m", tmp_path / "out", 2, 1)).config.moe == MoeConfig(
        2, 1
    )


def test_what_cannot_be_upcycled(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "m", tiny_model("mixtral", n_layers=1))
    with pytest.raises(SettingError, match="sparse already"):
        upcycle(tmp_path / "m", tmp_path / "out")
    with pytest.raises(SettingError, match="got 3 of 2"):
        upcycle(tmp_path / "m", tmp_path / "out", 2, 3)
    with pytest.raises(SettingError, match="packed already"):
        upcycle(ensure_packed(tmp_path / "m"), tmp_path / "out")


def test_two_equal_experts_give_exactly_the_dense_layer(tmp_path: Path) -> None:
    """Their weights add up to 1 exactly, so the sparse path adds no rounding of its own."""
    write_gguf(tmp_path / "m.gguf", tiny_model(n_layers=4), block_type=BlockType.Q4_1)
    sparse = upcycle(tmp_path / "m.gguf", tmp_path / "out", 8, 2)
    token_ids = np.random.default_rng(0).integers(0, 320, 60).tolist()
    dense_logits = logits_of(open_transformer(tmp_path / "m.gguf"), token_ids)
    sparse_logits = logits_of(open_transformer(sparse), token_ids, [40, 19, 1])
    np.testing.assert_array_equal(sparse_logits, dense_logits)
