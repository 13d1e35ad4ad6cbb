"""Cut and flipped files of every format: a typed error or a model, never anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cierzo.errors import ModelError
from cierzo.models.checkpoint import open_checkpoint
from cierzo.models.loading import ensure_packed
from cierzo.models.packed_folder import open_packed
from cierzo.models.packing import pack_job
from tests.tiny_checkpoints import tiny_model, write_consolidated, write_gguf, write_huggingface

SETTINGS = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Format → (what to open, the file to damage)."""
    folder = tmp_path_factory.mktemp("sources")
    model = tiny_model("mixtral", n_layers=1, dim=32, hidden_dim=32, vocab_size=300)
    write_gguf(folder / "m.gguf", model)
    write_huggingface(folder / "hf", model, num_shards=2)
    write_consolidated(folder / "mistral", model)
    packed = ensure_packed(folder / "m.gguf")
    return {
        "gguf": (folder / "m.gguf", folder / "m.gguf"),
        "safetensors": (folder / "hf", folder / "hf/model-00001-of-00002.safetensors"),
        "index": (folder / "hf", folder / "hf/model.safetensors.index.json"),
        "config.json": (folder / "hf", folder / "hf/config.json"),
        "params.json": (folder / "mistral", folder / "mistral/params.json"),
        "cierzo.json": (packed, packed / "cierzo.json"),
        "weights.bin": (packed, packed / "weights.bin"),
    }


FORMATS = ["gguf", "safetensors", "index", "config.json", "params.json", "cierzo.json"]


def load(source: Path) -> None:
    """All that reads headers and manifests, short of the weights themselves."""
    if source.suffix == ".cierzo":
        open_packed(source)
    else:
        pack_job(open_checkpoint(source), "auto")


@pytest.mark.parametrize("kind", [*FORMATS, "weights.bin"])
def test_truncated_anywhere(sources: dict[str, tuple[Path, Path]], kind: str) -> None:
    source, path = sources[kind]
    whole = path.read_bytes()
    cuts = {int(len(whole) * part / 60) for part in range(60)} | {len(whole) - 1, 1, 7, 8, 9}
    try:
        for cut in sorted(cuts):
            path.write_bytes(whole[:cut])
            with pytest.raises(ModelError):
                load(source)
    finally:
        path.write_bytes(whole)
    load(source)


@pytest.mark.parametrize("kind", FORMATS)
@SETTINGS
@given(data=st.data())
def test_flipped_bits(
    sources: dict[str, tuple[Path, Path]], kind: str, data: st.DataObject
) -> None:
    source, path = sources[kind]
    whole = path.read_bytes()
    # Headers are at the start; deeper bytes are weights, which may be anything.
    last = min(len(whole), 20_000) - 1
    flips = data.draw(st.lists(st.integers(0, last * 8 + 7), min_size=1, max_size=4))
    damaged = bytearray(whole)
    for bit in flips:
        damaged[bit // 8] ^= 1 << bit % 8
    try:
        path.write_bytes(damaged)
        load(source)
    except ModelError:
        pass
    finally:
        path.write_bytes(whole)


def test_a_changed_manifest_never_opens(sources: dict[str, tuple[Path, Path]]) -> None:
    source, path = sources["cierzo.json"]
    whole = path.read_bytes()
    changed = whole.replace(b'"offset": 4096', b'"offset": 8192', 1)
    assert changed != whole
    try:
        path.write_bytes(changed)
        with pytest.raises(ModelError, match="checksum"):
            load(source)
    finally:
        path.write_bytes(whole)
