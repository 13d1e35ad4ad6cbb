"""A checkpoint in any format behind one face: config, tensors by our names, texts.

Opening reads and checks headers only; tensors are read later, by rows. Knows neither
packing nor the forward pass.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cierzo.chat_template import chosen_template
from cierzo.config import ModelConfig
from cierzo.errors import ModelFileError, UnsupportedModelError
from cierzo.models.config_consolidated import consolidated_config
from cierzo.models.config_gguf import gguf_config
from cierzo.models.config_huggingface import huggingface_config
from cierzo.models.fields import Fields, read_json_object
from cierzo.models.gguf_file import read_gguf
from cierzo.models.gguf_vocabulary import gguf_vocabulary
from cierzo.models.model_file import StoredTensor
from cierzo.models.pooling import read_pooling
from cierzo.models.safetensors_file import read_safetensors, read_sharded
from cierzo.models.source_files import SourceFiles, find_source_files
from cierzo.models.weight_names import CheckpointFormat, our_name

_WEIGHT_SCALES = (".weight_scale_inv", ".weight_scale", ".qscale_weight")
_ACTIVATION_SCALES = (".input_scale", ".activation_scale", ".qscale_act")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`tensors` go by our names (`weight_names.py`). `gguf_vocab` is a GGUF's own vocabulary."""

    files: SourceFiles
    config: ModelConfig
    tensors: Mapping[str, StoredTensor]
    chat_template: str | None
    licence: str | None
    gguf_vocab: Mapping[str, Any] | None = None

    @property
    def tokenizer_files(self) -> tuple[Path, ...]:
        return self.files.tokenizer_files

    @property
    def has_interleaved_rope(self) -> bool:
        """Whether q and k rows stand in pairs (2i, 2i + 1) instead of half-split."""
        return self.files.format != "huggingface"

    def tensor(self, name: str) -> StoredTensor:
        """A tensor by our name, nothing read yet; ModelFileError when it is missing."""
        if name not in self.tensors:
            raise ModelFileError(f"{self.files.source}: tensor {name} is missing")
        return self.tensors[name]


def open_checkpoint(source: Path) -> Checkpoint:
    """The checkpoint at `source` (a .gguf file or a folder), headers checked.

    Raises ModelNotFoundError, ModelFileError for anything damaged or untrue and
    UnsupportedModelError for models we do not run.
    """
    files = find_source_files(source)
    return _open_gguf(files) if files.format == "gguf" else _open_safetensors(files)


def _open_gguf(files: SourceFiles) -> Checkpoint:
    header = read_gguf(files.weights)
    origin = str(files.weights)
    # The architecture is refused before any of its tensors is called unknown.
    metadata = Fields(header.metadata, origin)
    has_output = "output.weight" in header.tensors
    factors = header.tensors.get("rope_freqs.weight")
    config = gguf_config(
        header.metadata,
        origin,
        has_output=has_output,
        rope_factors=None if factors is None else factors.floats().reshape(-1),
    )
    tensors = _by_our_names(header.tensors, "gguf", origin)
    tensors.pop("rope_factors", None)
    return Checkpoint(
        files,
        config,
        tensors,
        chat_template=metadata.text("tokenizer.chat_template", "") or None,
        licence=metadata.text("general.license", "") or None,
        gguf_vocab=gguf_vocabulary(header.metadata, origin),
    )


def _open_safetensors(files: SourceFiles) -> Checkpoint:
    is_sharded = files.weights.suffix == ".json"
    stored = read_sharded(files.weights) if is_sharded else read_safetensors(files.weights)
    values = read_json_object(files.config)
    has_output = any(name.endswith(("lm_head.weight", "output.weight")) for name in stored)
    read_config = huggingface_config if files.format == "huggingface" else consolidated_config
    config = read_config(values, str(files.config), has_output=has_output)
    config = dataclasses.replace(config, pooling=read_pooling(files.pooling_file))
    tensors = _by_our_names(_scaled(stored, files.format), files.format, str(files.weights))
    return Checkpoint(
        files,
        config,
        tensors,
        chat_template=find_chat_template(files.tokenizer_files),
        licence=_licence(files),
    )


def _by_our_names(
    stored: Mapping[str, StoredTensor], checkpoint_format: CheckpointFormat, origin: str
) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        try:
            ours = our_name(name, checkpoint_format)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{origin}: {error}") from None
        if ours is None:
            continue
        if ours in tensors:
            raise ModelFileError(
                f"{origin}: {name!r} and {tensors[ours].name!r} are both the model's {ours}"
            )
        tensors[ours] = tensor
    return tensors


def _scaled(
    stored: Mapping[str, StoredTensor], checkpoint_format: CheckpointFormat
) -> dict[str, StoredTensor]:
    """fp8 tensors with their scales attached; the scales' own entries taken out."""
    scales = {name for name in stored if name.endswith(_WEIGHT_SCALES + _ACTIVATION_SCALES)}
    tensors = {}
    for name, tensor in stored.items():
        if name in scales:
            continue
        if tensor.type_name == "F8_E4M3":
            tensor = _with_scale(tensor, stored, checkpoint_format)
        tensors[name] = tensor
    return tensors


def _with_scale(
    tensor: StoredTensor, stored: Mapping[str, StoredTensor], checkpoint_format: CheckpointFormat
) -> StoredTensor:
    base = tensor.name.removesuffix(".weight")
    found = next((stored[base + end] for end in _WEIGHT_SCALES if base + end in stored), None)
    if found is None:
        if checkpoint_format == "consolidated":
            return tensor
        raise ModelFileError(f"{tensor.file.path}: fp8 tensor {tensor.name} has no weight_scale")
    n_rows = int(np.prod(tensor.shape[:-1]))
    size = int(np.prod(found.shape))
    if size not in (1, n_rows):
        raise UnsupportedModelError(
            f"{tensor.file.path}: {tensor.name} has fp8 scales of shape {list(found.shape)}; "
            "supported are one per tensor and one per row"
        )
    flat = dataclasses.replace(found, shape=(size,))
    return dataclasses.replace(tensor, scale=flat.floats())


def find_chat_template(files: Iterable[Path]) -> str | None:
    """The template among `files`.

    Raises ModelFileError when a file that may hold one is no JSON object.
    """
    by_name = {path.name: path for path in files}
    if "chat_template.jinja" in by_name:
        return by_name["chat_template.jinja"].read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if name in by_name:
            template = chosen_template(read_json_object(by_name[name]).get("chat_template"))
            if template is not None:
                return template
    return None


# No part can match a newline in two ways: 16 KB of empty lines would take a minute.
_README_LICENCE = re.compile(r"\A---[ \t]*\n(?:.*\n)*?license:[ \t]*([\w.+-]+)")


def _licence(files: SourceFiles) -> str | None:
    """As the README's front matter says, else the first line of the licence file."""
    readme = files.config.parent / "README.md"
    if readme.is_file():
        with readme.open(encoding="utf-8", errors="replace") as file:
            match = _README_LICENCE.search(file.read(2**14))
        if match:
            return match.group(1)
    if files.licence_file is None:
        return None
    with files.licence_file.open(encoding="utf-8", errors="replace") as file:
        lines = (line.strip() for line in file.read(2**12).splitlines())
    return next((line for line in lines if line), None)
