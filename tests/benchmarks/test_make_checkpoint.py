"""Random checkpoints: every format at a small shape loads and gives finite, sane logits."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.make_checkpoint import (
    QUANTS,
    SHAPES,
    BlockType,
    Shape,
    plan_tensors,
    random_blocks,
    write_checkpoint,
)
from cierzo import LLM
from cierzo.errors import DiskFullError, SettingError
from cierzo.models.stored_types import STORED_TYPES

DENSE = Shape(256, 2, 4, 2, 512, 300)
SPARSE = Shape(256, 2, 4, 2, 256, 300, num_experts=4, tied_embeddings=True)


def silent(done: int, total: int) -> None:
    assert done <= total


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("shape", [DENSE, SPARSE], ids=["dense", "sparse"])
def test_it_loads_and_stays_sane(tmp_path: Path, shape: Shape, quant: str) -> None:
    path = tmp_path / "random.gguf"
    num_parameters = write_checkpoint(path, "random", shape, QUANTS[quant], silent)
    planned = plan_tensors(shape, QUANTS[quant])
    assert num_parameters == sum(int(np.prod(tensor.shape)) for tensor in planned)
    with LLM(path) as llm:
        assert llm.config.n_layers == 2
        assert (llm.config.moe is None) == (shape is DENSE)
        logits = llm.logits(llm.tokenizer.encode("a wind", add_bos=True))
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 30


@pytest.mark.parametrize("kind", [*QUANTS.values(), BlockType.Q6_K], ids=lambda kind: kind.name)
def test_weights_spread_as_asked(kind: BlockType) -> None:
    blocks = random_blocks(kind, 4096, 0.05, np.random.default_rng(0))
    weights = STORED_TYPES[kind.name].float_rows(blocks)
    assert weights.std() == pytest.approx(0.05, rel=0.45 if kind == BlockType.BF16 else 0.15)
    assert abs(weights.mean()) < 0.01


def test_the_head_is_wider_and_odd_rows_fall_back() -> None:
    kinds = {
        tensor.name: tensor.block_type for tensor in plan_tensors(SHAPES["smollm2"], BlockType.Q4_K)
    }
    assert kinds["token_embd.weight"] == BlockType.Q8_0  # tied, and 576 is no multiple of 256
    assert kinds["blk.0.attn_q.weight"] == BlockType.Q8_0
    assert kinds["blk.0.ffn_down.weight"] == BlockType.Q4_K
    kinds = {tensor.name: tensor.block_type for tensor in plan_tensors(DENSE, BlockType.Q4_0)}
    assert kinds["output.weight"] == BlockType.Q6_K
    assert kinds["token_embd.weight"] == BlockType.Q4_0


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(b"mine")
    with pytest.raises(SettingError, match="exists"):
        write_checkpoint(path, "random", DENSE, BlockType.Q4_0, silent)
    assert path.read_bytes() == b"mine"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, nbytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFullError, match="no room"):
        write_checkpoint(tmp_path / "big.gguf", "random", DENSE, BlockType.Q4_0, silent)
    assert list(tmp_path.iterdir()) == []
