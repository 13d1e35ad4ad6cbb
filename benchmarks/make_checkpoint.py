"""Checkpoints of any size for measurements: random quantised blocks, written straight to GGUF.

    python -m benchmarks.make_checkpoint mixtral-mini --quant q4_0 [--layers 4] [--out FILE]

A shape is a name below, and each of its numbers can be set anew (`--dim 2048`). The weights never
exist as floats: only the scales of their blocks are chosen, so that every product keeps the size of
its input. The vocabulary is SentencePiece's smallest, which every engine loads: three control
tokens, 256 bytes and pieces that nobody says.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

import gguf
import numpy as np
from numpy.typing import NDArray

from cierzo.cli.console import byte_progress
from cierzo.errors import CierzoError, DiskFullError, SettingError
from cierzo.settings import load_settings

BlockType = gguf.GGMLQuantizationType
Bytes = NDArray[np.uint8]

CHUNK_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Shape:
    """A Mistral-family model's numbers; dense where `num_experts` is 0."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    hidden_dim: int
    vocab_size: int = 32000
    num_experts: int = 0
    num_experts_per_tok: int = 2
    tied_embeddings: bool = False


SHAPES = {
    "smollm2": Shape(576, 30, 9, 3, 1536, 49152, tied_embeddings=True),
    "mixtral-mini": Shape(1024, 16, 16, 4, 3584, num_experts=8),
    "mistral-7b": Shape(4096, 32, 32, 8, 14336),
    "mistral-7b-slim": Shape(4096, 4, 32, 8, 14336),
    "mixtral-8x7b-slim": Shape(4096, 12, 32, 8, 14336, num_experts=8),
    # As many parameters as their sparse namesakes, all of them active.
    "dense-mini": Shape(1024, 16, 16, 4, 8 * 3584),
    "dense-47b-slim": Shape(4096, 12, 32, 8, 8 * 14336),
}

QUANTS = {
    "q4_0": BlockType.Q4_0,
    "q4_1": BlockType.Q4_1,
    "q4_k": BlockType.Q4_K,
    "q8_0": BlockType.Q8_0,
    "bf16": BlockType.BF16,
}
_FILE_TYPES = {
    BlockType.Q4_0: gguf.LlamaFileType.MOSTLY_Q4_0,
    BlockType.Q4_1: gguf.LlamaFileType.MOSTLY_Q4_1,
    BlockType.Q4_K: gguf.LlamaFileType.MOSTLY_Q4_K_M,
    BlockType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
    BlockType.BF16: gguf.LlamaFileType.MOSTLY_BF16,
}
_FOUR_BITS = (BlockType.Q4_0, BlockType.Q4_1, BlockType.Q4_K)


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    name: str
    shape: tuple[int, ...]
    block_type: BlockType

    @property
    def n_blocks(self) -> int:
        return math.prod(self.shape) // gguf.GGML_QUANT_SIZES[self.block_type][0]

    @property
    def nbytes(self) -> int:
        return self.n_blocks * gguf.GGML_QUANT_SIZES[self.block_type][1]


def plan_tensors(shape: Shape, quant: BlockType) -> list[PlannedTensor]:
    """Every tensor in file order. As llama.cpp's own quantiser has it, the head of a 4-bit file is
    kept wider (Q6_K, or Q8_0 where rows are no multiple of 256), and so is what Q4_K cannot cut."""
    s, head_dim = shape, shape.dim // shape.n_heads
    q_dim, kv_dim = s.n_heads * head_dim, s.n_kv_heads * head_dim

    def matrix(name: str, *axes: int, kind: BlockType = quant) -> PlannedTensor:
        wide = gguf.GGML_QUANT_SIZES[kind][0]
        return PlannedTensor(f"{name}.weight", axes, kind if axes[-1] % wide == 0 else _WIDER)

    def floats(name: str, *axes: int) -> PlannedTensor:
        return PlannedTensor(f"{name}.weight", axes, BlockType.F32)

    head = BlockType.Q6_K if quant in _FOUR_BITS else quant
    embedding = head if s.tied_embeddings else quant
    planned = [matrix("token_embd", s.vocab_size, s.dim, kind=embedding)]
    for n in range(s.n_layers):
        layer = f"blk.{n}."
        planned += [
            floats(layer + "attn_norm", s.dim),
            matrix(layer + "attn_q", q_dim, s.dim),
            matrix(layer + "attn_k", kv_dim, s.dim),
            matrix(layer + "attn_v", kv_dim, s.dim),
            matrix(layer + "attn_output", s.dim, q_dim),
            floats(layer + "ffn_norm", s.dim),
        ]
        stack, suffix = ((s.num_experts,), "_exps") if s.num_experts else ((), "")
        if s.num_experts:
            planned.append(floats(layer + "ffn_gate_inp", s.num_experts, s.dim))
        planned += [
            matrix(layer + "ffn_gate" + suffix, *stack, s.hidden_dim, s.dim),
            matrix(layer + "ffn_up" + suffix, *stack, s.hidden_dim, s.dim),
            matrix(layer + "ffn_down" + suffix, *stack, s.dim, s.hidden_dim),
        ]
    planned.append(floats("output_norm", s.dim))
    if not s.tied_embeddings:
        planned.append(matrix("output", s.vocab_size, s.dim, kind=head))
    return planned


_WIDER = BlockType.Q8_0


def random_blocks(
    block_type: BlockType, n_blocks: int, spread: float, rng: np.random.Generator
) -> Bytes:
    """uint8 [n_blocks, block bytes]: weights of mean near 0 and standard deviation `spread`."""
    size = gguf.GGML_QUANT_SIZES[block_type][1]
    blocks = np.frombuffer(bytearray(rng.bytes(n_blocks * size)), np.uint8).reshape(-1, size)
    _SCALE[block_type](blocks, spread, rng)
    return blocks


def _half(number: float, blocks: Bytes, rng: np.random.Generator) -> Bytes:
    """float16 around `number`, one per block, as bytes."""
    varied = number * rng.uniform(0.7, 1.3, len(blocks))
    return varied.astype(np.float16).view(np.uint8).reshape(-1, 2)


# Whole numbers drawn evenly from 2^bits values spread by about 2^bits / √12.
_SPREAD_4, _SPREAD_6, _SPREAD_8 = 4.61, 18.47, 73.9


def _scale_q4_0(blocks: Bytes, spread: float, rng: np.random.Generator) -> None:
    blocks[:, 0:2] = _half(spread / _SPREAD_4, blocks, rng)


def _scale_q4_1(blocks: Bytes, spread: float, rng: np.random.Generator) -> None:
    blocks[:, 0:2] = _half(spread / _SPREAD_4, blocks, rng)
    blocks[:, 2:4] = _half(-7.5 * spread / _SPREAD_4, blocks, rng)


def _scale_q8_0(blocks: Bytes, spread: float, rng: np.random.Generator) -> None:
    blocks[:, 0:2] = _half(spread / _SPREAD_8, blocks, rng)


def _scale_q4_k(blocks: Bytes, spread: float, rng: np.random.Generator) -> None:
    # All eight 6-bit scales and minimums are 32: 4 × 2 whole in bytes 4-11 with the top two bits of
    # the other 4 × 2 above them, whose low nibbles (0) are in bytes 12-15.
    blocks[:, 4:12], blocks[:, 12:16] = 32 | (32 >> 4) << 6, 0
    blocks[:, 0:2] = _half(spread / _SPREAD_4 / 32, blocks, rng)
    blocks[:, 2:4] = _half(7.5 * spread / _SPREAD_4 / 32, blocks, rng)


def _scale_q6_k(blocks: Bytes, spread: float, rng: np.random.Generator) -> None:
    blocks[:, 192:208] = 32
    blocks[:, 208:210] = _half(spread / _SPREAD_6 / 32, blocks, rng)


def _scale_bf16(blocks: Bytes, spread: float, rng: np.random.Generator) -> None:
    # Sign and mantissa stay random; one exponent makes |w| even in [2^e, 2^(e+1)), near 1.53 · 2^e.
    exponent = round(math.log2(spread / 1.53)) + 127
    numbers = blocks.view(np.uint16)
    numbers &= 0x807F
    numbers |= exponent << 7


_SCALE: dict[BlockType, Callable[[Bytes, float, np.random.Generator], None]] = {
    BlockType.Q4_0: _scale_q4_0,
    BlockType.Q4_1: _scale_q4_1,
    BlockType.Q4_K: _scale_q4_k,
    BlockType.Q6_K: _scale_q6_k,
    BlockType.Q8_0: _scale_q8_0,
    BlockType.BF16: _scale_bf16,
}


def _data(tensor: PlannedTensor, rng: np.random.Generator) -> Iterator[bytes]:
    """A tensor's bytes, chunk by chunk. Norms are 1, a router is a small random matrix."""
    spread = tensor.shape[-1] ** -0.5
    if tensor.block_type == BlockType.F32:
        is_norm = len(tensor.shape) == 1
        array = np.ones(tensor.shape) if is_norm else rng.normal(0, spread, tensor.shape)
        yield array.astype(np.float32).tobytes()
        return
    size = gguf.GGML_QUANT_SIZES[tensor.block_type][1]
    for start in range(0, tensor.n_blocks, CHUNK_BYTES // size):
        count = min(CHUNK_BYTES // size, tensor.n_blocks - start)
        yield random_blocks(tensor.block_type, count, spread, rng).tobytes()


def write_checkpoint(
    path: Path, name: str, shape: Shape, quant: BlockType, progress: Callable[..., None]
) -> int:
    """Write the file whole or not at all; returns its parameters.

    Raises SettingError where `path` exists, DiskFullError where there is no room for it.
    """
    if path.exists():
        raise SettingError(f"{path} exists: delete it first, or name another file with --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    planned = plan_tensors(shape, quant)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write(unfinished, name, shape, quant, planned, progress)
        unfinished.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        nbytes = sum(tensor.nbytes for tensor in planned)
        raise DiskFullError(
            f"{path}: needs {nbytes / 1e9:.1f} GB and the disk has no room for it; free some space "
            "or name another disk with --out. Nothing was left behind"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return sum(math.prod(tensor.shape) for tensor in planned)


def _write(
    path: Path,
    name: str,
    shape: Shape,
    quant: BlockType,
    planned: list[PlannedTensor],
    progress: Callable[..., None],
) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    _add_metadata(writer, name, shape)
    writer.add_file_type(_FILE_TYPES[quant])
    for tensor in planned:
        writer.add_tensor_info(
            tensor.name,
            _stored_shape(tensor),
            np.dtype(np.float32 if tensor.block_type == BlockType.F32 else np.uint8),
            tensor.nbytes,
            raw_dtype=None if tensor.block_type == BlockType.F32 else tensor.block_type,
        )
    writer.open_output_file()
    assert writer.fout is not None
    with writer.fout[0] as file:
        _write_parts(writer, file, planned, progress)


def _write_parts(
    writer: gguf.GGUFWriter,
    file: IO[bytes],
    planned: list[PlannedTensor],
    progress: Callable[..., None],
) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.Generator(np.random.SFC64(0))
    done, total = 0, sum(tensor.nbytes for tensor in planned)
    os.posix_fallocate(file.fileno(), 0, file.tell() + total)  # a full disk shows now
    for tensor in planned:
        writer.write_padding(file, file.tell())
        for chunk in _data(tensor, rng):
            file.write(chunk)
            done += len(chunk)
            progress(done, total)
    writer.write_padding(file, file.tell())


def _stored_shape(tensor: PlannedTensor) -> tuple[int, ...]:
    """What gguf wants to hear: the shape in bytes for blocks, in numbers for floats."""
    if tensor.block_type == BlockType.F32:
        return tensor.shape
    block_size, block_nbytes = gguf.GGML_QUANT_SIZES[tensor.block_type]
    return (*tensor.shape[:-1], tensor.shape[-1] // block_size * block_nbytes)


def _add_metadata(writer: gguf.GGUFWriter, name: str, shape: Shape) -> None:
    writer.add_name(name)
    writer.add_context_length(32768)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.hidden_dim)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_dimension_count(shape.dim // shape.n_heads)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab_size)
    if shape.num_experts:
        writer.add_expert_count(shape.num_experts)
        writer.add_expert_used_count(shape.num_experts_per_tok)
    control = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [f"▁piece{n}" for n in range(shape.vocab_size - 259)]
    kinds = gguf.TokenType
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    types += [kinds.BYTE] * 256 + [kinds.NORMAL] * len(pieces)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*control, *byte_tokens, *pieces])
    writer.add_token_scores([0.0] * 259 + [-float(n) for n in range(len(pieces))])
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def checkpoints_folder() -> Path:
    """Where checkpoints for measurements are kept between runs."""
    return load_settings().home / "bench"


def ensure_checkpoint(folder: Path, name: str, quant: str) -> Path:
    """The file of a known shape, written the first time."""
    path = folder / f"{name}.{quant}.gguf"
    if not path.exists():
        _write_with_progress(path, name, SHAPES[name], quant)
    return path


def _write_with_progress(path: Path, name: str, shape: Shape, quant: str) -> int:
    with byte_progress("writing") as bar:
        return write_checkpoint(
            path, name, shape, QUANTS[quant], lambda done, total: bar(path.name, done, total)
        )


def _flags() -> dict[str, type]:
    return {field.name: int for field in fields(Shape) if field.name != "tied_embeddings"}


def _checked(shape: Shape) -> Shape:
    """Raises SettingError for numbers that no file can hold."""
    if shape.dim % shape.n_heads or shape.n_heads % shape.n_kv_heads:
        raise SettingError(
            f"dim {shape.dim} must be a multiple of n_heads {shape.n_heads}, and that of "
            f"n_kv_heads {shape.n_kv_heads}"
        )
    if shape.dim % 32 or shape.hidden_dim % 32 or shape.vocab_size < 259:
        raise SettingError(
            f"dim {shape.dim} and hidden_dim {shape.hidden_dim} must be multiples of 32, and "
            f"vocab_size {shape.vocab_size} at least 259"
        )
    return shape


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--quant", choices=QUANTS, default="q4_0")
    parser.add_argument("--out", type=Path, help="default: <home>/bench/<shape>.<quant>.gguf")
    for flag in _flags():
        parser.add_argument("--" + flag.replace("_", "-").removeprefix("n-"), dest=flag, type=int)
    arguments = parser.parse_args()
    changed: dict[str, Any] = {
        flag: getattr(arguments, flag) for flag in _flags() if getattr(arguments, flag) is not None
    }
    try:
        shape = _checked(replace(SHAPES[arguments.shape], **changed))
        name = "-".join([arguments.shape, *(f"{flag}{n}" for flag, n in changed.items())])
        out = arguments.out or checkpoints_folder() / f"{name}.{arguments.quant}.gguf"
        num_parameters = _write_with_progress(out, name, shape, arguments.quant)
    except CierzoError as error:
        sys.exit(f"error: {error}")
    print(f"{out}: {num_parameters / 1e9:.2f} G parameters, {out.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
