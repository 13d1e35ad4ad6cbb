"""Arguments for every native op: `CALLS` maps an op's name to what draws a call of it.

T tokens, S sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cierzo import kernels
from cierzo.kernels import ForwardInput, KVCache, PackedWeight, Tensor
from tests.fuzz.native_draw import FORMATS, Draw

Call = tuple[Callable[..., Any], dict[str, Any]]


def _resize(tensor: Tensor, rows: int) -> None:
    """A view from before must stay memory that may be read and written."""
    if not isinstance(tensor, Tensor):
        raise TypeError
    view = tensor.numpy()
    tensor.resize(rows)
    view[...] = 1.0
    tensor.numpy()[:1] = 2.0
    view.sum()


def _tensor_new(d: Draw) -> Call:
    return Tensor, {"rows": d.rows(), "cols": d.width()}


def _tensor_resize(d: Draw) -> Call:
    return _resize, {"tensor": d.tensor(d.rows(), d.width()), "rows": d.rows()}


def _from_numpy(d: Draw) -> Call:
    return Tensor.from_numpy, {"a": d.floats(d.rows(), d.width())}


def _packed_weight(d: Draw) -> Call:
    (dtype, affine), n_out, n_in = d.of(*FORMATS), d.width(), d.width()
    n_experts = d.of(1, 3)
    data = d.bytes_(n_experts * kernels.packed_nbytes(dtype, affine, n_out, n_in))
    return PackedWeight, {
        **{"data": data, "dtype": dtype, "affine": affine},
        **{"n_out": n_out, "n_in": n_in, "n_experts": n_experts},
    }


def _packed_nbytes(d: Draw) -> Call:
    dtype, affine = d.of(*FORMATS)
    arguments = {"dtype": dtype, "affine": affine, "n_out": d.width(), "n_in": d.width()}
    return kernels.packed_nbytes, arguments


def _unpack(d: Draw) -> Call:
    (dtype, affine), n_out, n_in = d.of(*FORMATS), d.width(), d.width()
    data = d.bytes_(kernels.packed_nbytes(dtype, affine, n_out, n_in))
    shape = {"n_out": n_out, "n_in": n_in}
    return kernels.unpack, {"data": data, "dtype": dtype, "affine": affine, **shape}


def _pack_quantized(d: Draw) -> Call:
    n_out, groups, bits = d.width(), d.of(1, 2, 3), d.of(4, 8)
    values = d.bytes_(n_out, groups * 32) >> (8 - bits if d.mutator.chance(0.8) else 0)
    return kernels.pack_quantized, {
        "values": values,
        "scales": d.halves(n_out, groups),
        "minimums": d.of(None, d.halves(n_out, groups)),
        "bits": bits,
    }


def _pack_bf16(d: Draw) -> Call:
    return kernels.pack_bf16, {"w": d.floats(d.width(), d.width())}


def _quantize(d: Draw) -> Call:
    return kernels.quantize, {"w": d.floats(d.width(), d.width()), "bits": d.of(4, 8)}


def _matmul(d: Draw) -> Call:
    rows, n_in, n_out = d.rows(), d.width(), d.width()
    out, x = d.tensor(rows, n_out), d.tensor(rows, n_in)
    accumulate = d.of(False, True)
    weight = d.packed(n_out, n_in)
    return kernels.matmul, {
        **{"out": out, "x": x, "weight": weight, "accumulate": accumulate},
        "num_prompt_rows": d.of(0, rows // 2, rows),
        "norm": d.of(None, kernels.RMSNorm(d.tensor(1, n_in), 1e-5)),
    }


def _feed_forward(d: Draw) -> Call:
    rows, dim, hidden = d.rows(), d.width(), d.width()
    return kernels.feed_forward, {
        "x": d.tensor(rows, dim),
        "gate_up": d.packed(2 * (-(-hidden // 16) * 16), dim),
        "down": d.packed(dim, hidden),
        "num_prompt_rows": d.of(0, rows // 2, rows),
        "norm": d.of(None, kernels.RMSNorm(d.tensor(1, dim), 1e-5)),
    }


def _matmul_swiglu(d: Draw) -> Call:
    rows, n_in, hidden = d.rows(), d.width(), d.width()
    gate_up = d.packed(2 * (-(-hidden // 16) * 16), n_in)
    out, x = d.tensor(d.rows(), hidden), d.tensor(rows, n_in)
    prompt = d.of(0, rows // 2, rows)
    return kernels.matmul_swiglu, {
        **{"out": out, "x": x, "gate_up": gate_up},
        "num_prompt_rows": prompt,
    }


def _moe(d: Draw) -> Call:
    rows, dim, hidden, num_experts = d.rows(), d.width(), d.of(16, 32, 48), d.of(1, 2, 4, 9)
    return kernels.moe, {
        "x": d.tensor(rows, dim),
        "h": d.tensor(rows, dim),
        "router": d.tensor(num_experts, dim),
        "gate_up": d.packed(2 * hidden, dim, num_experts),
        "down": d.packed(dim, hidden, num_experts),
        "num_experts_per_tok": d.rng.randint(1, num_experts),
        "expert_counts": d.of(None, d.tensor(1, num_experts)),
        "num_prompt_rows": d.of(0, rows // 2, rows),
    }


def _gather_rows(d: Draw) -> Call:
    rows, width = d.rows() + 1, d.width()
    out, x = d.tensor(d.rows(), width), d.tensor(rows, width)
    return kernels.gather_rows, {"out": out, "x": x, "rows": d.ids(rows, d.rows())}


def _embed(d: Draw) -> Call:
    vocab, dim = d.width(), d.width()
    step = ForwardInput(**d.step_arrays(9, 8, vocab))
    out = d.tensor(d.rows(), dim)
    return kernels.embed, {"out": out, "inp": step, "weight": d.packed(vocab, dim)}


def _rms_norm(d: Draw) -> Call:
    width, x = d.width(), d.rows()
    tensors = {"out": d.tensor(d.rows(), width), "x": d.tensor(x, width)}
    return kernels.rms_norm, {**tensors, "weight": d.tensor(1, width), "eps": 1e-5}


def _cache(d: Draw) -> tuple[KVCache, ForwardInput, int]:
    """A cache, a step whose arrays may be spoiled (where that is not refused), query heads."""
    num_blocks, n_kv_heads, head_dim = d.of(1, 4, 9), d.of(1, 2, 3), d.of(2, 8, 32, 62, 64, 128)
    arrays = d.step_arrays(num_blocks, head_dim, 50)
    if d.mutator.chance(0.4):
        name = d.rng.choice(list(arrays))
        try:
            step = ForwardInput(**{**arrays, name: d.spoiled(arrays[name])})
        except (ValueError, TypeError):
            step = ForwardInput(**arrays)
    else:
        step = ForwardInput(**arrays)
    cache = KVCache(2, num_blocks, n_kv_heads, head_dim, d.of("bf16", "int8"))
    return cache, step, n_kv_heads * d.of(1, 3, 4)


def _rope_and_store(d: Draw) -> Call:
    cache, step, n_heads = _cache(d)
    rows, head_dim = step.num_tokens, cache.head_dim
    return kernels.rope_and_store, {
        "q_out": d.tensor(d.rows(), n_heads * head_dim),
        "qkv": d.tensor(rows, (n_heads + 2 * cache.n_kv_heads) * head_dim),
        "inp": step,
        "kv_cache": cache,
        "layer": d.of(0, 1),
        "n_heads": n_heads,
        "interleaved": d.of(False, True),
    }


def _attention(d: Draw) -> Call:
    cache, step, n_heads = _cache(d)
    width = n_heads * cache.head_dim
    return kernels.attention, {
        "out": d.tensor(d.rows(), width),
        "q": d.tensor(step.num_tokens, width),
        "inp": step,
        "kv_cache": cache,
        "layer": d.of(0, 1),
        "sliding_window": d.of(0, 1, 16, 20),
    }


def _attention_layer(d: Draw) -> Call:
    cache, step, n_heads = _cache(d)
    dim, width = d.width(), n_heads * cache.head_dim
    return kernels.attention_layer, {
        "x": d.tensor(step.num_tokens, dim),
        "qkv_proj": d.packed(width + 2 * cache.n_kv_heads * cache.head_dim, dim),
        "o_proj": d.packed(dim, width),
        "norm": kernels.RMSNorm(d.tensor(1, dim), 1e-5),
        "inp": step,
        "kv_cache": cache,
        "layer": d.of(0, 1),
        "n_heads": n_heads,
        "sliding_window": d.of(0, 1, 16, 20),
    }


def _norm(d: Draw) -> Call:
    return kernels.RMSNorm, {"weight": d.tensor(1, d.width()), "eps": 1e-5}


def _program_run(d: Draw) -> Call:
    _, layer = _attention_layer(d)
    step, cache, x = layer.pop("inp"), layer.pop("kv_cache"), layer["x"]
    program = kernels.Program()
    program.attention_layer(**layer)
    program.gather_rows(d.tensor(d.rows(), x.cols), x)
    rows = d.ids(step.num_tokens, d.rows()) if step.num_tokens else np.empty(0, np.int32)
    return program.run, {"inp": step, "kv_cache": cache, "rows": rows}


def _forward_input(d: Draw) -> Call:
    return ForwardInput, d.step_arrays(d.of(1, 9), d.of(2, 8, 64), 50)


def _kv_cache(d: Draw) -> Call:
    sizes = {"n_layers": d.of(1, 3), "num_blocks": d.of(1, 5)}
    rows = {"n_kv_heads": d.of(1, 2), "head_dim": d.of(2, 64), "dtype": d.of("bf16", "int8")}
    return KVCache, {**sizes, **rows}


def _kv_cache_read(d: Draw) -> Call:
    cache = KVCache(2, 3, d.of(1, 2), d.of(2, 64), d.of("bf16", "int8"))
    return cache.read, {"layer": d.of(0, 1), "block": d.of(0, 2)}


def _reduction(op: Callable[[Tensor], Any]) -> Callable[[Draw], Call]:
    return lambda d: (op, {"logits": d.tensor(d.rows(), d.width())})


def _top_k(d: Draw) -> Call:
    rows, width = d.rows() + 1, d.width()
    arguments = {"row": d.rng.randrange(rows), "k": d.rng.randint(1, width)}
    return kernels.top_k, {"logits": d.tensor(rows, width), **arguments}


def _sample(d: Draw) -> Call:
    rows, width = d.rows(), d.width()
    return kernels.sample, {
        "logits": d.tensor(rows, width),
        "temperature": np.abs(np.nan_to_num(d.floats(rows))),
        "top_k": d.ids(d.of(1, width, 2 * width), rows),
        "top_p": np.full(rows, d.of(1e-9, 0.5, 0.99, 1.0), np.float32),
        "uniform": d.arrays.random(rows),
    }


def _apply_mask(d: Draw) -> Call:
    rows, width = d.rows() + 1, d.width()
    mask = d.arrays.integers(0, 2**32, -(-width // 32), dtype=np.uint32)
    row = d.rng.randrange(rows)
    return kernels.apply_mask, {"logits": d.tensor(rows, width), "row": row, "mask": mask}


def _set_num_threads(d: Draw) -> Call:
    def call(n: Any) -> None:
        if not (isinstance(n, int) and 4 < n <= 1024):  # a thousand threads would only take time
            kernels.set_num_threads(n)

    return call, {"n": d.of(1, 2)}


def _set_isa(d: Draw) -> Call:
    return kernels.set_isa, {"name": d.of(*kernels.available_isas())}


def _read_rate(d: Draw) -> Call:
    return kernels.read_rate, {"nbytes": d.of(1 << 16, 1 << 20), "seconds": 1e-4}


def _multiply_rate(d: Draw) -> Call:
    unit = d.of("f32", "int8", "amx_int8", "amx_bf16", "amx_int8_l1", "amx_bf16_l1")
    return kernels.multiply_rate, {"unit": unit, "seconds": 1e-4}


def _asked(op: Callable[[], Any]) -> Callable[[Draw], Call]:
    return lambda d: (op, {})


CALLS: dict[str, Callable[[Draw], Call]] = {
    "Tensor": _tensor_new,
    "Tensor.resize": _tensor_resize,
    "Tensor.from_numpy": _from_numpy,
    "PackedWeight": _packed_weight,
    "packed_nbytes": _packed_nbytes,
    "unpack": _unpack,
    "pack_quantized": _pack_quantized,
    "pack_bf16": _pack_bf16,
    "quantize": _quantize,
    "matmul": _matmul,
    "matmul_swiglu": _matmul_swiglu,
    "RMSNorm": _norm,
    "Program.run": _program_run,
    "feed_forward": _feed_forward,
    "moe": _moe,
    "gather_rows": _gather_rows,
    "embed": _embed,
    "rms_norm": _rms_norm,
    "rope_and_store": _rope_and_store,
    "attention": _attention,
    "attention_layer": _attention_layer,
    "ForwardInput": _forward_input,
    "KVCache": _kv_cache,
    "KVCache.read": _kv_cache_read,
    "argmax": _reduction(kernels.argmax),
    "logsumexp": _reduction(kernels.logsumexp),
    "top_k": _top_k,
    "sample": _sample,
    "apply_mask": _apply_mask,
    "set_num_threads": _set_num_threads,
    "set_isa": _set_isa,
    "read_rate": _read_rate,
    "multiply_rate": _multiply_rate,
    "num_threads": _asked(kernels.num_threads),
    "isa": _asked(kernels.isa),
    "available_isas": _asked(kernels.available_isas),
}
