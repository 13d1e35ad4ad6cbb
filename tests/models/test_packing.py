"""Every architecture in every format ends as the same packed tensors."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cierzo.errors import DiskFullError, ModelFileError, SettingError
from cierzo.models import packed_weights
from cierzo.models.checkpoint import open_checkpoint
from cierzo.models.loading import ensure_packed, quantize
from cierzo.models.packed_folder import open_packed, verify_packed
from cierzo.models.packing import pack_job, write_packed
from tests.models.expected_tensors import assert_holds, relative_error, unpacked
from tests.tiny_checkpoints import (
    BLOCK_TYPES,
    K_QUANTS,
    TINY_CONFIGS,
    BlockType,
    tiny_model,
    write_consolidated,
    write_gguf,
    write_huggingface,
)

EXACT = ("BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
CONSOLIDATED = [name for name in TINY_CONFIGS if not name.startswith("llama")]
WIDE = {"dim": 256, "hidden_dim": 256, "head_dim": 64, "n_layers": 1}


@pytest.mark.parametrize("name", TINY_CONFIGS)
def test_huggingface_single_file(tmp_path: Path, name: str) -> None:
    model = tiny_model(name)
    stored = write_huggingface(tmp_path / "m", model)
    assert_holds(open_packed(ensure_packed(tmp_path / "m")), stored)


@pytest.mark.parametrize("name", TINY_CONFIGS)
def test_huggingface_5_sharded_with_merged_experts(tmp_path: Path, name: str) -> None:
    model = tiny_model(name)
    stored = write_huggingface(
        tmp_path / "m", model, style="5", num_shards=3, merged_experts=True, dtype="f32"
    )
    packed = open_packed(ensure_packed(tmp_path / "m"))
    assert_holds(packed, stored, max_relative_error=0.004)


@pytest.mark.parametrize("style", ["4", "5"])
@pytest.mark.parametrize("name", ["mistral", "ministral3"])
def test_wrapped_text_models(tmp_path: Path, name: str, style: str) -> None:
    model = tiny_model(name)
    stored = write_huggingface(
        tmp_path / "m", model, style="5" if style == "5" else "4", wrapped=True
    )
    assert_holds(open_packed(ensure_packed(tmp_path / "m")), stored)


@pytest.mark.parametrize("num_shards", [1, 2])
@pytest.mark.parametrize("name", CONSOLIDATED)
def test_consolidated(tmp_path: Path, name: str, num_shards: int) -> None:
    stored = write_consolidated(tmp_path / "m", tiny_model(name), num_shards=num_shards)
    assert_holds(open_packed(ensure_packed(tmp_path / "m")), stored)


@pytest.mark.parametrize("kind", BLOCK_TYPES, ids=lambda kind: str(kind.name))
def test_gguf_block_types(tmp_path: Path, kind: BlockType) -> None:
    model = tiny_model("mistral", **(WIDE if kind in K_QUANTS else {}))
    stored = write_gguf(tmp_path / "m.gguf", model, block_type=kind)
    packed = open_packed(ensure_packed(tmp_path / "m.gguf"))
    assert_holds(packed, stored, max_relative_error=0.0 if kind.name in EXACT else 0.01)


@pytest.mark.parametrize("split_experts", [False, True])
def test_gguf_mixtral_merged_and_split(tmp_path: Path, split_experts: bool) -> None:
    model = tiny_model("mixtral")
    stored = write_gguf(
        tmp_path / "m.gguf", model, block_type=BlockType.Q4_1, split_experts=split_experts
    )
    packed = open_packed(ensure_packed(tmp_path / "m.gguf"))
    assert packed.config.architecture == "mixtral"
    assert_holds(packed, stored)


@pytest.mark.parametrize("name", ["ministral3", "llama3", "llama"])
def test_gguf_architectures(tmp_path: Path, name: str) -> None:
    stored = write_gguf(tmp_path / "m.gguf", tiny_model(name))
    assert_holds(open_packed(ensure_packed(tmp_path / "m.gguf")), stored)


def test_gate_and_up_are_not_swapped(tmp_path: Path) -> None:
    """w1 is gate, w3 up, w2 down: a peer's importer once had them the wrong way round."""
    model = tiny_model("mixtral", n_layers=1)
    write_consolidated(tmp_path / "m", model)
    packed = open_packed(ensure_packed(tmp_path / "m"))
    gate_up = unpacked(packed, "layers.0.experts.gate_up_proj")
    gate = model.weights["layers.0.experts.1.gate_proj"]
    up = model.weights["layers.0.experts.1.up_proj"]
    np.testing.assert_allclose(gate_up[1, :16], gate[:16], rtol=0.01)
    np.testing.assert_allclose(gate_up[1, 16:32], up[:16], rtol=0.01)


def test_a_stack_of_unlike_types_takes_the_widest(tmp_path: Path) -> None:
    model = tiny_model("mistral", n_layers=1)
    kinds = {"q_proj": BlockType.Q4_1, "k_proj": BlockType.Q4_0, "v_proj": BlockType.Q8_0}
    stored = write_gguf(tmp_path / "m.gguf", model, block_types=kinds)
    packed = open_packed(ensure_packed(tmp_path / "m.gguf"))
    entry = packed.entries["layers.0.qkv_proj"]
    assert (entry.dtype, entry.affine) == ("int8", True)
    assert_holds(packed, stored)


@pytest.mark.parametrize(("dtype", "limit"), [("bf16", 0.003), ("int8", 0.01), ("int4", 0.12)])
def test_quantize_reports_its_error(tmp_path: Path, dtype: str, limit: float) -> None:
    model = tiny_model("mixtral")
    stored = write_huggingface(tmp_path / "m", model, dtype="f32")
    assert dtype in ("bf16", "int8", "int4")
    packed = open_packed(quantize(tmp_path / "m", tmp_path / "out", dtype))  # type: ignore[arg-type]
    kinds = {entry.dtype for entry in packed.manifest.entries}
    assert kinds == {"float32", dtype} | ({"int8"} if dtype == "int4" else set())
    assert_holds(packed, stored, max_relative_error=limit)


def test_int4_keeps_stored_int4_and_the_vocabulary_at_int8(tmp_path: Path) -> None:
    model = tiny_model("mistral", n_layers=1)
    stored = write_gguf(tmp_path / "m.gguf", model, block_types={"embedding": BlockType.F16})
    packed = open_packed(ensure_packed(tmp_path / "m.gguf", "int4"))
    assert packed.entries["embedding"].dtype == "int8"
    assert packed.entries["output"].dtype == "int4"
    assert_holds(packed, stored, max_relative_error=0.01)


def test_rows_that_fill_no_group_and_no_panel(tmp_path: Path) -> None:
    model = tiny_model("mistral", dim=72, hidden_dim=48, vocab_size=301, head_dim=12)
    stored = write_huggingface(tmp_path / "m", model)
    assert_holds(open_packed(ensure_packed(tmp_path / "m")), stored)
    packed = open_packed(ensure_packed(tmp_path / "m", "int4"))
    assert_holds(packed, stored, max_relative_error=0.12)


def test_fp8_with_scales(tmp_path: Path) -> None:
    """One scale per tensor, as the vendor's fp8 checkpoints have; written by hand."""
    from safetensors import TensorSpec, serialize_file

    from cierzo.models.safetensors_file import read_safetensors
    from cierzo.models.stored_types import STORED_TYPES

    model = tiny_model("mistral", n_layers=1)
    write_huggingface(tmp_path / "m", model, dtype="f32")
    path = tmp_path / "m" / "model.safetensors"
    arrays = {name: tensor.floats() for name, tensor in read_safetensors(path).items()}
    name = "model.layers.0.mlp.down_proj.weight"
    bytes_of = np.random.default_rng(0).integers(0, 0x70, arrays[name].shape, dtype=np.uint8)
    scale = np.array(0.5, np.float32)
    specs = {
        key: TensorSpec(dtype="float32", shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes)
        for key, a in arrays.items()
        if key != name
    }
    specs[name] = TensorSpec(
        dtype="float8_e4m3fn",
        shape=bytes_of.shape,
        data_ptr=bytes_of.ctypes.data,
        data_len=bytes_of.nbytes,
    )
    specs[name + "_scale_inv"] = TensorSpec(
        dtype="float32", shape=[], data_ptr=scale.ctypes.data, data_len=4
    )
    serialize_file(specs, path)
    packed = open_packed(ensure_packed(tmp_path / "m"))
    expected = STORED_TYPES["F8_E4M3"].float_rows(bytes_of) * 0.5
    assert relative_error(expected, unpacked(packed, "layers.0.down_proj")) < 1e-6


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "m", tiny_model())
    calls: list[tuple[int, int, str]] = []
    ensure_packed(tmp_path / "m", progress=lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done) and done[0] == 0 and done[-1] == calls[-1][1] > 0
    assert {"embedding", "layers.1.qkv_proj", "norm"} <= {call[2] for call in calls}


def test_peak_memory_is_chunks_not_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.3 MB of float32 weights through chunks of 16384 weights."""
    model = tiny_model("mistral", n_layers=1, vocab_size=12800, tied_embeddings=True)
    write_huggingface(tmp_path / "m", model)
    model.weights.clear()
    monkeypatch.setattr(packed_weights, "CHUNK_WEIGHTS", 2**14)
    monkeypatch.setattr(packed_weights, "PIECE_BYTES", 2**16)
    job = pack_job(open_checkpoint(tmp_path / "m"), "int4")
    tracemalloc.start()
    write_packed(job, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2**19


def test_a_weight_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    model.weights["layers.1.o_proj"][3, 5] = np.inf
    write_huggingface(tmp_path / "m", model)
    with pytest.raises(ModelFileError, match=r"layers\.1\.o_proj.*not finite"):
        ensure_packed(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("place", ["posix_fallocate", "pwrite", "fdatasync"])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_huggingface(tmp_path / "m", tiny_model())
    monkeypatch.setattr(packed_weights, "FLUSH_BYTES", 0)
    monkeypatch.setattr(os, place, full)
    with pytest.raises(DiskFullError, match="no room left"):
        ensure_packed(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_what_a_disk_takes_in_parts_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def in_parts(file: int, data: memoryview, offset: int) -> int:
        return pwrite(file, data[:1000], offset)

    stored = write_huggingface(tmp_path / "m", tiny_model("mistral"))
    monkeypatch.setattr(packed_weights, "PIECE_BYTES", 2**12)
    monkeypatch.setattr(os, "pwrite", in_parts)
    packed = open_packed(ensure_packed(tmp_path / "m"))
    verify_packed(packed.folder)
    assert_holds(packed, stored)


def test_another_folder_is_never_replaced(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "m", tiny_model())
    precious = tmp_path / "out"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(SettingError, match="not a packed folder"):
        quantize(tmp_path / "m", precious, "int8")
    assert (precious / "thesis.txt").is_file()


_PACK_THRICE = """
import sys
from pathlib import Path
from cierzo.models.checkpoint import open_checkpoint
from cierzo.models.packed_folder import verify_packed
from cierzo.models.packing import pack_job, write_packed
source = Path(sys.argv[1])
for _ in range(3):
    job = pack_job(open_checkpoint(source), "auto")
    verify_packed(write_packed(job, source.parent / "m.auto.cierzo"))
"""


def test_processes_that_pack_at_once_do_no_harm(tmp_path: Path) -> None:
    stored = write_huggingface(tmp_path / "m", tiny_model(n_layers=1))
    command = [sys.executable, "-c", _PACK_THRICE, str(tmp_path / "m")]
    workers = [subprocess.Popen(command) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert_holds(open_packed(tmp_path / "m.auto.cierzo"), stored)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.auto.cierzo"]


_PACK_AND_WAIT = """
import sys, time
from pathlib import Path
from cierzo.models.checkpoint import open_checkpoint
from cierzo.models.packing import pack_job, write_packed
def stall(done, total, name):
    print(flush=True)
    time.sleep(60)
source, out = map(Path, sys.argv[1:])
write_packed(pack_job(open_checkpoint(source), "auto"), out, stall)
"""


def test_what_a_killed_packer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    source, out = tmp_path / "m", tmp_path / "out"
    write_huggingface(source, tiny_model(n_layers=1))
    bystander = tmp_path / ".out.backup"
    bystander.mkdir()
    command = [sys.executable, "-c", _PACK_AND_WAIT, str(source), str(out)]
    packer = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert packer.stdout is not None and packer.stdout.readline()
        job = pack_job(open_checkpoint(source), "auto")
        write_packed(job, out)
        at_work = set(tmp_path.iterdir()) - {source, out, bystander}
        assert len(at_work) == 1, "a packer that lives keeps its folder"
    finally:
        packer.kill()
        packer.communicate()
    assert at_work < set(tmp_path.iterdir()), "it had no time to tidy up"
    write_packed(job, out)
    assert set(tmp_path.iterdir()) == {source, out, bystander}
