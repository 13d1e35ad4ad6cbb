"""Which files of a repository are taken."""

from __future__ import annotations

import pytest

from cierzo.errors import UnsupportedModelError
from cierzo.hub.choose import choose_files

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (
            ["config.json", *SHARDS, INDEX, "consolidated.safetensors"],
            ["config.json", *SHARDS, INDEX],
        ),
        (
            ["params.json", "consolidated.safetensors", "tekken.json", "a.bin"],
            ["consolidated.safetensors", "params.json", "tekken.json"],
        ),
        (["m.Q8_0.gguf", "m.Q4_K_M.gguf", "m.F16.gguf"], ["m.Q4_K_M.gguf"]),
        (["m-q8_0.gguf", "m-Q4_K_M-00001-of-00002.gguf"], ["m-q8_0.gguf"]),
        (["odd.gguf"], ["odd.gguf"]),
        (
            ["config.json", "model.safetensors", "1_Pooling/config.json", "onnx/config.json"],
            ["1_Pooling/config.json", "config.json", "model.safetensors"],
        ),
    ],
)
def test_one_copy_of_the_weights(there: list[str], taken: list[str]) -> None:
    assert choose_files("o/r", there) == sorted(taken)


def test_pickles_are_never_taken() -> None:
    with pytest.raises(UnsupportedModelError, match="pytorch_model.bin"):
        choose_files("o/r", ["config.json", "pytorch_model.bin"])
    with pytest.raises(UnsupportedModelError, match="not a model"):
        choose_files("o/r", ["pytorch_model.bin"], "pytorch_model.bin")
