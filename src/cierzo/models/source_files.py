"""Which files a checkpoint is made of, found without opening any of them.

Tells the three formats apart and fingerprints a source, so that a packed folder can be
matched to it in microseconds. Knows nothing of what the files hold.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cierzo.errors import ModelFileError, ModelNotFoundError, UnsupportedModelError
from cierzo.models.weight_names import CheckpointFormat

TOKENIZER_FILES = (
    "tekken.json",
    "tokenizer.model",
    "tokenizer.model.v*",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
POOLING_FILE = "1_Pooling/config.json"
"""Where sentence-transformers keeps how an embedding model makes one vector of a text."""

LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")
_FINGERPRINTED_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """`weights` is the file, shard or index to open first; `config` is the same file for GGUF."""

    source: Path
    format: CheckpointFormat
    config: Path
    weights: Path
    tokenizer_files: tuple[Path, ...] = ()
    pooling_file: Path | None = None
    licence_file: Path | None = None

    @property
    def name(self) -> str:
        """What the model is called on disk: the folder's name, or the file's without suffix."""
        return self.source.stem if self.format == "gguf" else self.source.name

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Every file whose change makes a packed folder stale."""
        if self.format == "gguf":
            return (self.weights,)
        pattern = "consolidated*" if self.format == "consolidated" else "*"
        shards = sorted(self.config.parent.glob(f"{pattern}.safetensors"))
        pooling = () if self.pooling_file is None else (self.pooling_file,)
        files = (self.config, self.weights, *shards, *self.tokenizer_files, *pooling)
        named = dict.fromkeys(files)
        return tuple(named)

    def fingerprint(self) -> list[dict[str, Any]]:
        """Name, size, modification time and a hash of the start of every file."""
        return [_fingerprint(path) for path in self.all_files]


def _fingerprint(path: Path) -> dict[str, Any]:
    try:
        stat = path.stat()
        with path.open("rb") as file:
            start = hashlib.sha256(file.read(_FINGERPRINTED_BYTES)).hexdigest()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error})") from error
    return {
        "name": path.name,
        "nbytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "start_sha256": start,
    }


def find_source_files(source: Path) -> SourceFiles:
    """The files of the checkpoint at `source`: a .gguf or .safetensors file, or a folder.

    Raises ModelNotFoundError where there is nothing, ModelFileError where files are
    missing and UnsupportedModelError for formats we do not read.
    """
    source = source.absolute()
    if source.is_file():
        if source.suffix == ".gguf":
            return SourceFiles(source, "gguf", source, source)
        if source.suffix == ".safetensors":
            return _in_folder(source.parent)
        raise UnsupportedModelError(
            f"{source}: not a .gguf or .safetensors file, nor a folder with a model"
        )
    if not source.is_dir():
        raise ModelNotFoundError(f"{source}: there is no such file or folder")
    return _in_folder(source)


def _in_folder(folder: Path) -> SourceFiles:
    config, params = folder / "config.json", folder / "params.json"
    if config.is_file() and (weights := _huggingface_weights(folder)) is not None:
        return _described(folder, "huggingface", config, weights)
    if params.is_file():
        return _described(folder, "consolidated", params, _consolidated_weights(folder))
    gguf_files = sorted(folder.glob("*.gguf"))
    if len(gguf_files) == 1 and not config.is_file():
        return SourceFiles(gguf_files[0], "gguf", gguf_files[0], gguf_files[0])
    if gguf_files:
        names = ", ".join(path.name for path in gguf_files)
        raise ModelFileError(f"{folder}: holds several models ({names}); name one of the files")
    for pattern in ("pytorch_model*.bin", "consolidated*.pth"):
        if any(folder.glob(pattern)):
            raise UnsupportedModelError(
                f"{folder}: {pattern} files can run code when opened and are not read; "
                "use the model's safetensors files"
            )
    missing = "its .safetensors files" if config.is_file() else "config.json or params.json"
    raise ModelFileError(f"{folder}: {missing} are missing; fetch the model again to complete it")


def _huggingface_weights(folder: Path) -> Path | None:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    for path in (index, single):
        if path.is_file():
            return path
    others = [
        path
        for path in sorted(folder.glob("*.safetensors"))
        if not path.name.startswith("consolidated")
    ]
    if any("-of-" in path.name for path in others):
        raise ModelFileError(f"{index}: the index of the shards beside it is missing")
    return others[0] if len(others) == 1 else None


def _consolidated_weights(folder: Path) -> Path:
    names = ("consolidated.safetensors.index.json", "consolidated.safetensors")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if any(folder.glob("consolidated*.pth")):
        raise UnsupportedModelError(
            f"{folder}: consolidated .pth files can run code when opened and are not read; "
            "use the model's safetensors files"
        )
    raise ModelFileError(f"{folder / names[1]}: is missing; fetch the model again to complete it")


def _described(
    folder: Path, checkpoint_format: CheckpointFormat, config: Path, weights: Path
) -> SourceFiles:
    tokenizer_files = tuple(
        path for pattern in TOKENIZER_FILES for path in sorted(folder.glob(pattern))
    )
    pooling = folder / POOLING_FILE if (folder / POOLING_FILE).is_file() else None
    licence = next((folder / n for n in LICENCE_FILES if (folder / n).is_file()), None)
    return SourceFiles(
        folder, checkpoint_format, config, weights, tokenizer_files, pooling, licence
    )
