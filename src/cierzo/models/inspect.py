"""What a model file is, said before it is loaded: shape, size, types, texts, and whether it fits.

Reads headers only. A model we do not run gets a report too, with the reason.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cierzo.config import ModelConfig
from cierzo.errors import CierzoError, UnsupportedModelError
from cierzo.machine import free_memory_bytes
from cierzo.models.checkpoint import Checkpoint, find_chat_template, open_checkpoint
from cierzo.models.fields import read_json_object
from cierzo.models.gguf_file import read_gguf
from cierzo.models.packed_folder import PackedFolder, is_packed_folder, open_packed, tensor_nbytes
from cierzo.models.packing import pack_job
from cierzo.models.quantization import RequestedDtype, packed_kind
from cierzo.models.safetensors_file import read_safetensors, read_sharded
from cierzo.models.source_files import SourceFiles, find_source_files

_DEFAULT_CONTEXT = 4096
_WORKSPACE_BYTES = 256 * 2**20
"""Activations, tokenizer and interpreter: what a running process needs besides."""


@dataclass(frozen=True, slots=True)
class TensorCount:
    """How many tensors are stored as `type_name`, and their bytes."""

    type_name: str
    count: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model, described. None: unknown, because the model is of a kind we do not run.

    `weights_nbytes` is what the weights take in memory once packed, `kv_cache_nbytes` the
    bf16 KV cache for `context_length` tokens. `problem` says why it will not run here, or is None.
    """

    source: Path
    format: str
    architecture: str
    config: ModelConfig | None
    total_parameters: int | None
    active_parameters: int | None
    tensors: tuple[TensorCount, ...]
    context_length: int
    weights_nbytes: int | None
    kv_cache_nbytes: int | None
    available_nbytes: int
    worst_relative_error: float | None
    tokenizer: str | None
    has_chat_template: bool
    licence: str | None
    problem: str | None

    @property
    def memory_nbytes(self) -> int | None:
        """Weights, KV cache and working space together."""
        if self.weights_nbytes is None or self.kv_cache_nbytes is None:
            return None
        return self.weights_nbytes + self.kv_cache_nbytes + _WORKSPACE_BYTES

    @property
    def will_run(self) -> bool:
        return self.problem is None


def inspect_model(
    source: Path, *, dtype: RequestedDtype = "auto", context_length: int | None = None
) -> ModelReport:
    """Describe the checkpoint or packed folder at `source`, as it would run at `dtype`.

    `context_length` (default 4096, or the model's own where less) is for the KV cache.
    Raises ModelNotFoundError and ModelFileError; unsupported models get a report.
    """
    if is_packed_folder(source):
        return _packed_report(open_packed(source), context_length)
    files = find_source_files(source)
    try:
        return _checkpoint_report(open_checkpoint(source), dtype, context_length)
    except UnsupportedModelError as error:
        return _unsupported_report(files, str(error), context_length)


@dataclass(frozen=True, slots=True)
class _Weights:
    """`sizes` holds (parameters of one expert, experts) of every tensor, `nbytes` all once packed.

    `stored` is what the files hold.
    """

    sizes: list[tuple[int, int]]
    nbytes: int
    stored: tuple[TensorCount, ...]
    worst_relative_error: float | None = None

    @property
    def num_parameters(self) -> int:
        return sum(size * num_experts for size, num_experts in self.sizes)

    def num_active(self, config: ModelConfig) -> int:
        """Parameters that work on one token."""
        at_most = config.moe.num_experts_per_tok if config.moe is not None else 1
        return sum(size * min(num_experts, at_most) for size, num_experts in self.sizes)


@dataclass(frozen=True, slots=True)
class _Texts:
    """What lies beside the weights."""

    tokenizer: str | None
    has_chat_template: bool
    licence: str | None


def _checkpoint_report(
    checkpoint: Checkpoint, dtype: RequestedDtype, context_length: int | None
) -> ModelReport:
    nbytes = 0
    sizes = []
    for tensor in pack_job(checkpoint, dtype).planned:
        num_experts = len(tensor.experts)
        sizes.append((tensor.n_out * tensor.n_in, num_experts))
        kind = None if tensor.is_float else packed_kind(tensor, dtype)
        packed_as = ("float32", False) if kind is None else (kind.dtype, kind.affine)
        nbytes += tensor_nbytes(*packed_as, tensor.n_out, tensor.n_in, num_experts)
    stored = _counted((t.type_name, t.nbytes) for t in checkpoint.tensors.values())
    texts = _Texts(
        _tokenizer(checkpoint.tokenizer_files, checkpoint.gguf_vocab),
        checkpoint.chat_template is not None,
        checkpoint.licence,
    )
    files = checkpoint.files
    weights = _Weights(sizes, nbytes, stored)
    return _report(files.source, files.format, checkpoint.config, weights, texts, context_length)


def _packed_report(packed: PackedFolder, context_length: int | None) -> ModelReport:
    entries = packed.manifest.entries
    folder = packed.folder
    weights = _Weights(
        [(entry.n_out * entry.n_in, entry.n_experts) for entry in entries],
        sum(entry.nbytes for entry in entries),
        _counted((e.dtype + (" affine" if e.affine else ""), e.nbytes) for e in entries),
        max(entry.relative_error for entry in entries),
    )
    vocab = folder / "gguf_vocab.json"
    texts = _Texts(
        _tokenizer(
            sorted(folder.glob("t*ken*")), read_json_object(vocab) if vocab.is_file() else None
        ),
        find_chat_template(folder.iterdir()) is not None,
        packed.manifest.licence,
    )
    return _report(folder, "packed", packed.config, weights, texts, context_length)


def _report(
    source: Path,
    source_format: str,
    config: ModelConfig,
    weights: _Weights,
    texts: _Texts,
    context_length: int | None,
) -> ModelReport:
    context = min(context_length or _DEFAULT_CONTEXT, config.max_seq_len)
    available = free_memory_bytes()
    report = ModelReport(
        source=source,
        format=source_format,
        architecture=config.architecture,
        config=config,
        total_parameters=weights.num_parameters,
        active_parameters=weights.num_active(config),
        tensors=weights.stored,
        context_length=context,
        weights_nbytes=weights.nbytes,
        kv_cache_nbytes=config.kv_bytes(context),
        available_nbytes=available,
        worst_relative_error=weights.worst_relative_error,
        tokenizer=texts.tokenizer,
        has_chat_template=texts.has_chat_template,
        licence=texts.licence,
        problem=None,
    )
    needed = report.memory_nbytes
    if needed is None or needed <= available:
        return report
    return replace(
        report,
        problem=f"needs {needed / 2**30:.1f} GiB at a context of {context} tokens, "
        f"{available / 2**30:.1f} GiB are available; try int4, or a shorter context",
    )


def _unsupported_report(
    files: SourceFiles, problem: str, context_length: int | None
) -> ModelReport:
    """What can be said without knowing the architecture."""
    architecture = "unknown"
    tensors: tuple[TensorCount, ...] = ()
    try:
        if files.format == "gguf":
            header = read_gguf(files.weights)
            architecture = str(header.metadata.get("general.architecture", architecture))
            stored = header.tensors
        else:
            names: Any = read_json_object(files.config).get("architectures")
            architecture = str(names[0]) if isinstance(names, list) and names else architecture
            is_sharded = files.weights.suffix == ".json"
            stored = read_sharded(files.weights) if is_sharded else read_safetensors(files.weights)
        tensors = _counted((t.type_name, t.nbytes) for t in stored.values())
        total = sum(math.prod(t.shape) for t in stored.values())
    except CierzoError:
        total = None  # the reason is in `problem` already
    return ModelReport(
        source=files.source,
        format=files.format,
        architecture=architecture,
        config=None,
        total_parameters=total,
        active_parameters=None,
        tensors=tensors,
        context_length=context_length or _DEFAULT_CONTEXT,
        weights_nbytes=None,
        kv_cache_nbytes=None,
        available_nbytes=free_memory_bytes(),
        worst_relative_error=None,
        tokenizer=_tokenizer(files.tokenizer_files, None),
        has_chat_template=any(p.name.startswith("chat_template") for p in files.tokenizer_files),
        licence=None,
        problem=problem,
    )


def _counted(tensors: Iterable[tuple[str, int]]) -> tuple[TensorCount, ...]:
    """Largest first."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for type_name, nbytes in tensors:
        counts[type_name][0] += 1
        counts[type_name][1] += nbytes
    found = [TensorCount(name, count, nbytes) for name, (count, nbytes) in counts.items()]
    return tuple(sorted(found, key=lambda entry: -entry.nbytes))


def _tokenizer(files: Iterable[Path], gguf_vocab: Any) -> str | None:
    """Kind and version of the tokenizer that would be used, e.g. "tekken v13"."""
    by_name = {path.name: path for path in files}
    if "tekken.json" in by_name:
        config = read_json_object(by_name["tekken.json"]).get("config")
        version = config.get("version") if isinstance(config, dict) else None
        return f"tekken {version}" if version else "tekken"
    for name in sorted(by_name, reverse=True):
        if name.startswith("tokenizer.model.v"):
            return f"sentencepiece {name.removeprefix('tokenizer.model.')}"
    if gguf_vocab is not None:
        return f"GGUF {gguf_vocab.get('model')} ({gguf_vocab.get('pre', 'default')})"
    if "tokenizer.json" in by_name:
        return "tokenizer.json"
    return "sentencepiece" if "tokenizer.model" in by_name else None
