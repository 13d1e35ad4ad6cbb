"""safetensors files, single and sharded: headers checked, tensors by name.

Every length, type, shape and offset is verified against the file before it is
believed. Knows nothing of what the tensors mean.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cierzo.errors import ModelFileError
from cierzo.models.fields import Fields, parse_json_object, read_json_object
from cierzo.models.model_file import ModelFile, StoredTensor

_MAX_HEADER_BYTES = 100_000_000
_ITEM_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
}


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file. Raises ModelFileError for a header that lies."""
    file = ModelFile.at(path)
    if file.nbytes < 10:
        raise ModelFileError(f"{path}: {file.nbytes} bytes are too few for a safetensors file")
    header_nbytes = int.from_bytes(file.read(0, 8).tobytes(), "little")
    if not 2 <= header_nbytes <= min(_MAX_HEADER_BYTES, file.nbytes - 8):
        raise ModelFileError(
            f"{path}: a header of {header_nbytes} bytes does not fit the file of {file.nbytes}; "
            "it is truncated or no safetensors file"
        )
    header = parse_json_object(file.read(8, header_nbytes).tobytes(), f"{path}, header")
    header.pop("__metadata__", None)
    data_start = 8 + header_nbytes
    tensors = [_tensor(file, name, entry, data_start) for name, entry in header.items()]
    _check_layout(file, tensors, data_start)
    return {tensor.name: tensor for tensor in tensors}


def _tensor(file: ModelFile, name: str, entry: Any, data_start: int) -> StoredTensor:
    origin = f"{file.path}, tensor {name!r}"
    if not isinstance(entry, dict):
        raise ModelFileError(f"{origin}: its header entry must be an object")
    fields = Fields(entry, origin)
    dtype = fields.text("dtype")
    if dtype not in _ITEM_BYTES:
        raise fields.error("dtype", "must be a safetensors type", dtype)
    shape = _sizes(fields, "shape", 8)
    offsets = _sizes(fields, "data_offsets", 2)
    if len(offsets) != 2:
        raise fields.error("data_offsets", "must be two numbers", offsets)
    begin, end = offsets
    needed = math.prod(shape) * _ITEM_BYTES[dtype]
    if end - begin != needed:
        raise ModelFileError(
            f"{origin}: shape {list(shape)} of {dtype} needs {needed} bytes, "
            f"its offsets span {end - begin}"
        )
    return StoredTensor(name, shape, dtype, file, data_start + begin, needed)


def _sizes(fields: Fields, name: str, max_items: int) -> tuple[int, ...]:
    values = fields.items(name)
    if len(values) > max_items:
        raise fields.error(name, f"must have at most {max_items} items", values)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise fields.error(name, "must hold sizes", values)
    return tuple(values)


def _check_layout(file: ModelFile, tensors: list[StoredTensor], data_start: int) -> None:
    """Tensors must tile the data exactly: no overlap, no hole, nothing after the last."""
    position = data_start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != position:
            raise ModelFileError(
                f"{file.path}: tensor {tensor.name!r} starts at byte {tensor.offset}, "
                f"the one before it ends at {position}"
            )
        position += tensor.nbytes
    if position != file.nbytes:
        raise ModelFileError(
            f"{file.path}: holds {file.nbytes} bytes, its header describes {position}; "
            "the download is incomplete or the file damaged"
        )


def read_sharded(index_path: Path) -> dict[str, StoredTensor]:
    """The tensors of the shards that a `*.safetensors.index.json` lists.

    Raises ModelFileError for a missing shard or a tensor that its shard lacks.
    """
    weight_map = Fields(read_json_object(index_path), str(index_path)).section("weight_map")
    if weight_map is None:
        raise ModelFileError(f"{index_path}: weight_map is missing")
    shards: dict[str, dict[str, StoredTensor]] = {}
    tensors = {}
    for name in weight_map.names:
        shard = weight_map.text(name)
        if shard not in shards:
            shards[shard] = _read_shard(index_path, shard)
        if name not in shards[shard]:
            raise ModelFileError(f"{index_path}: says {shard} holds {name!r}, but it does not")
        tensors[name] = shards[shard][name]
    return tensors


def _read_shard(index_path: Path, shard: str) -> dict[str, StoredTensor]:
    if Path(shard).name != shard or not shard.endswith(".safetensors"):
        raise ModelFileError(f"{index_path}: {shard!r} is not the name of a safetensors file")
    path = index_path.parent / shard
    if not path.is_file():
        raise ModelFileError(f"{path}: this shard is missing; fetch the model again to complete it")
    return read_safetensors(path)
