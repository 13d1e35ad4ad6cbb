"""The fuzzer's own promises: inputs come from the seed, every native name is called."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cierzo import kernels
from cierzo.errors import CierzoError
from tests.fuzz import checkpoints, packed_folders
from tests.fuzz.gguf_damage import damaged_gguf
from tests.fuzz.mutations import Mutator
from tests.fuzz.native_arguments import CALLS
from tests.fuzz.native_draw import Draw
from tests.tiny_checkpoints import tiny_model, write_gguf


def test_a_seed_names_one_input(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tiny_model(n_layers=1))
    sound = (tmp_path / "m.gguf").read_bytes()
    first, again, other = (
        [damaged_gguf(Mutator(random.Random(f"{seed} {n}")), sound) for n in range(20)]
        for seed in ("a", "a", "b")
    )
    assert first == again != other
    assert all(damaged != sound for damaged in first)


def test_every_native_name_is_called() -> None:
    assert {name.split(".")[0] for name in CALLS} == set(kernels.__all__)


@pytest.mark.parametrize("name", [n for n in CALLS if not n.startswith("set_")])
def test_calls_are_right_before_they_are_spoiled(name: str) -> None:
    """Or the fuzzer would only ever see the first check of an op."""
    num_right = 0
    for seed in range(8):
        call, arguments = CALLS[name](Draw(Mutator(random.Random(seed))))
        try:
            call(**arguments)
            num_right += 1
        except ValueError:
            pass  # the arguments hold numbers that are not finite, or a spoiled step
    assert num_right > 0


@pytest.mark.parametrize("target", [checkpoints, packed_folders])
def test_some_inputs(tmp_path: Path, target: object) -> None:
    run = target.open_target(tmp_path)  # type: ignore[attr-defined]
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            run(random.Random(number), folder)
        except CierzoError:
            pass
