"""Target: damaged checkpoints of every format, from header to one forward step.

A file is refused with a CierzoError, or it packs, opens, and computes. Nothing else may happen.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cierzo.errors import CierzoError
from cierzo.models.checkpoint import open_checkpoint
from cierzo.models.inspect import inspect_model
from cierzo.models.packed_folder import PackedFolder, open_packed, verify_packed
from cierzo.models.packing import pack_job, write_packed
from tests.fuzz.gguf_damage import damaged_gguf
from tests.fuzz.mutations import Mutator
from tests.models.running import step_of
from tests.tiny_checkpoints import (
    BlockType,
    TinyModel,
    tiny_model,
    write_consolidated,
    write_gguf,
    write_huggingface,
)

_SMALL: dict[str, Any] = {"n_layers": 1, "vocab_size": 264, "hidden_dim": 64}
_WIDE: dict[str, Any] = {"n_layers": 1, "dim": 256, "hidden_dim": 256, "head_dim": 64}
_BESIDE = {
    "tokenizer_config.json": {"chat_template": "{{ messages }}", "bos_token": "<s>"},
    "generation_config.json": {"eos_token_id": [2]},
    "chat_template.json": {"chat_template": [{"name": "default", "template": "x"}]},
}
_README = "---\nlicense: apache-2.0\n---\n# A model\n"


def open_target(work: Path) -> Callable[[random.Random, Path], None]:
    """Writes the sound checkpoints to `work`; the result runs one damaged one in a folder."""
    sound = _write_sound(work / "sound")

    def run(rng: random.Random, folder: Path) -> None:
        mutator = Mutator(rng)
        source = folder / "model"
        shutil.copytree(rng.choice(sound), source)
        _damage(mutator, source)
        _inspect(source)
        packed = write_packed(
            pack_job(open_checkpoint(source), rng.choice(("auto", "int4", "int8", "bf16"))),
            folder / "packed",
        )
        try:
            verify_packed(packed)
            opened = open_packed(packed)
        except CierzoError as error:
            raise AssertionError("what was packed does not open") from error
        _inspect(packed)
        one_step(opened)

    return run


def _write_sound(folder: Path) -> list[Path]:
    sound = []

    def add(name: str, write: Callable[..., Any], model: TinyModel, **options: Any) -> None:
        path = folder / name
        write(path / "model.gguf" if write is write_gguf else path, model, **options)
        if write is not write_gguf:
            for file, values in _BESIDE.items():
                (path / file).write_text(json.dumps(values))
            (path / "README.md").write_text(_README)
        sound.append(path)

    mistral, mixtral = tiny_model("mistral", **_SMALL), tiny_model("mixtral", **_SMALL)
    llama3, ministral3 = tiny_model("llama3", **_SMALL), tiny_model("ministral3", **_SMALL)
    add("hf", write_huggingface, mistral)
    add("hf-window", write_huggingface, tiny_model("mistral-window-list", **_SMALL), dtype="f32")
    add("hf-sharded", write_huggingface, mixtral, num_shards=2, dtype="f16")
    add("hf5-merged", write_huggingface, mixtral, style="5", merged_experts=True)
    add("hf5-ministral3", write_huggingface, ministral3, style="5")
    add("hf-wrapped", write_huggingface, mistral, wrapped=True)
    add("hf-llama3", write_huggingface, llama3)
    add("consolidated", write_consolidated, mistral)
    add("consolidated-mixtral", write_consolidated, mixtral, num_shards=2)
    add("consolidated-ministral3", write_consolidated, ministral3)
    for kind in (BlockType.F16, BlockType.Q4_0, BlockType.Q5_1, BlockType.Q8_0):
        add(f"gguf-{kind.name}", write_gguf, mistral, block_type=kind)
    for kind in (BlockType.Q2_K, BlockType.Q3_K, BlockType.Q4_K, BlockType.Q6_K):
        add(f"gguf-{kind.name}", write_gguf, tiny_model("llama", **_WIDE), block_type=kind)
    add("gguf-mixtral", write_gguf, mixtral)
    add("gguf-split", write_gguf, mixtral, split_experts=True, vocabulary="llama")
    add("gguf-llama3", write_gguf, llama3)
    add("gguf-ministral3", write_gguf, ministral3)
    return sound


def _damage(mutator: Mutator, source: Path) -> None:
    """One file, mostly; sometimes a file is missing, or a folder stands in its place."""
    files = sorted(source.iterdir())
    for path in mutator.rng.sample(files, k=min(len(files), mutator.rng.choice((1, 1, 2)))):
        fate = mutator.rng.random()
        if fate < 0.04:
            path.unlink()
        elif fate < 0.06:
            path.unlink()
            path.mkdir()
        elif path.suffix == ".gguf":
            path.write_bytes(damaged_gguf(mutator, path.read_bytes()))
        elif path.suffix == ".safetensors":
            path.write_bytes(_damaged_safetensors(mutator, path.read_bytes()))
        elif path.suffix == ".json":
            path.write_bytes(mutator.json_bytes(json.loads(path.read_bytes())))
        else:
            path.write_bytes(mutator.damaged_bytes(path.read_bytes()))


def _damaged_safetensors(mutator: Mutator, data: bytes) -> bytes:
    """The header changed as JSON with its length kept true, or anything anywhere."""
    if mutator.chance(0.3):
        return mutator.damaged_bytes(data)
    nbytes = int.from_bytes(data[:8], "little")
    header = mutator.json_bytes(json.loads(data[8 : 8 + nbytes]))
    return len(header).to_bytes(8, "little") + header + data[8 + nbytes :]


def _inspect(path: Path) -> None:
    report = inspect_model(path)
    assert report.will_run == (report.problem is None)


def one_step(packed: PackedFolder) -> None:
    """Three tokens through the whole model; finite or not, the numbers are the file's affair."""
    from cierzo.models.transformer import Transformer

    model = Transformer(packed)
    block_table = np.array([1], np.int32)
    step = step_of([0, 1, packed.config.vocab_size - 1], 0, 3, block_table)
    logits = model.forward(step, model.new_kv_cache(2), np.array([2], np.int32))
    assert logits.numpy().shape == (1, packed.config.vocab_size)
