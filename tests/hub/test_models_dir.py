"""What is on this machine: found, listed, removed, and refused with what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cierzo.errors import ModelFileError, ModelNotFoundError
from cierzo.hub import list_models, remove, resolve
from cierzo.hub.models_dir import PulledModel, folder_of, write_record


def put(home: Path, name: str, data: bytes = b"weights") -> PulledModel:
    folder = folder_of(name, home)
    folder.mkdir(parents=True)
    (folder / "m.gguf").write_bytes(data)
    model = PulledModel(name, "test", "mit", "m.gguf", {"m.gguf": len(data)}, folder)
    write_record(model)
    return model


def test_models_are_listed_by_name(tmp_path: Path) -> None:
    b, a = put(tmp_path, "hf:o/b:m.gguf"), put(tmp_path, "a")
    assert list_models(tmp_path) == [a, b]


def test_a_path_is_itself(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.touch()
    assert resolve(file, home=tmp_path) == file
    assert resolve(str(tmp_path), home=tmp_path) == tmp_path


def test_remove_takes_the_packed_copy_too(tmp_path: Path) -> None:
    model = put(tmp_path, "a")
    packed = model.folder / "m.gguf.cierzo"
    packed.mkdir()
    (packed / "weights.bin").write_bytes(bytes(1000))
    assert remove("a", tmp_path) > 1000
    assert list_models(tmp_path) == []
    assert not model.folder.exists()


@pytest.mark.parametrize("name", ["", "..", "nothing", "../.."])
def test_remove_touches_only_models(tmp_path: Path, name: str) -> None:
    put(tmp_path, "a")
    with pytest.raises(ModelNotFoundError, match="on this machine: a"):
        remove(name, tmp_path)
    assert len(list_models(tmp_path)) == 1


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    put(tmp_path, "my-model")
    with pytest.raises(ModelNotFoundError, match=r"mean 'my-model'.*on this machine: my-model"):
        resolve("my-modle", home=tmp_path)
    with pytest.raises(ModelNotFoundError, match="no file or folder"):
        resolve("./none", home=tmp_path)
    with pytest.raises(ModelNotFoundError, match="cierzo pull mixtral-8x7b-instruct"):
        resolve("mixtral-8x7b-instruct", home=tmp_path)


def test_a_damaged_record_names_the_remedy(tmp_path: Path) -> None:
    model = put(tmp_path, "a")
    (model.folder / "m.gguf").unlink()
    with pytest.raises(ModelFileError, match=r"m\.gguf.*pull 'a' again"):
        resolve("a", home=tmp_path)
    (model.folder / "cierzo-model.json").write_text("[]")
    with pytest.raises(ModelFileError, match="not a model record"):
        resolve("a", home=tmp_path)
