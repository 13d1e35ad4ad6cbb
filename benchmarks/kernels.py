"""Times matmul over shapes, rows, dtypes, threads and instruction sets.

Prints GOPS (2 · rows · n_out · n_in per call) and GB/s of packed weights. Weights are
cycled through as many copies as fill `--working-set` MB, so that they come from where a
model of that size would come from (an L3 of hundreds of MB keeps a small one).

    python benchmarks/kernels.py --shapes 1536x576,4096x14336 --rows 1,16,512 --dtype int4
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from cierzo.kernels import (
    PackedWeight,
    Tensor,
    available_isas,
    isa,
    matmul,
    num_threads,
    packed_nbytes,
    set_isa,
    set_num_threads,
)


def random_weight(dtype: str, affine: bool, n_out: int, n_in: int) -> PackedWeight:
    """A weight of random bytes: speed does not depend on the numbers, so nothing is quantised."""
    nbytes = packed_nbytes(dtype, affine, n_out, n_in)
    # 0x2c2c is a small normal number in f16 and bf16 alike, so no sum overflows.
    data = np.random.default_rng(0).integers(0x2A, 0x2D, nbytes, dtype=np.uint8)
    return PackedWeight(data, dtype, affine, n_out, n_in)


def seconds_per_call(
    weights: list[PackedWeight], rows: int, prompt: bool, min_s: float, repeats: int
) -> float:
    """The median over `repeats` rounds, each of at least `min_s` and of every weight once."""
    x = Tensor.from_numpy(
        np.random.default_rng(1).standard_normal((rows, weights[0].n_in), dtype=np.float32)
    )
    out = Tensor(rows, weights[0].n_out)
    num_prompt_rows = rows if prompt else 0
    for weight in weights[:2]:
        matmul(out, x, weight, num_prompt_rows=num_prompt_rows)
    rounds = []
    for _ in range(repeats):
        calls = 0
        start = time.perf_counter()
        while time.perf_counter() - start < min_s:
            for weight in weights:
                matmul(out, x, weight, num_prompt_rows=num_prompt_rows)
            calls += len(weights)
        rounds.append((time.perf_counter() - start) / calls)
    return statistics.median(rounds)


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name, threads in product(args.isa, args.threads):
        set_isa(name)
        set_num_threads(threads)
        for dtype, shape in product(args.dtype, args.shapes):
            n_out, n_in = (int(n) for n in shape.split("x"))
            base, affine = dtype.removesuffix("-affine"), dtype.endswith("-affine")
            nbytes = packed_nbytes(base, affine, n_out, n_in)
            copies = max(1, args.working_set * 1_000_000 // nbytes)
            weights = [random_weight(base, affine, n_out, n_in) for _ in range(copies)]
            for rows in args.rows:
                seconds = seconds_per_call(weights, rows, args.prompt, args.min_s, args.repeats)
                yield {
                    "isa": isa(),
                    "threads": num_threads(),
                    "dtype": dtype,
                    "n_out": n_out,
                    "n_in": n_in,
                    "rows": rows,
                    "microseconds": round(seconds * 1e6, 2),
                    "gops": round(2 * rows * n_out * n_in / seconds / 1e9, 1),
                    "gb_s": round(nbytes / seconds / 1e9, 2),
                }


def parse_arguments() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(n) for n in text.split(",")]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--shapes", type=words, default=["1536x576", "4096x14336"], help="n_out x n_in"
    )
    parser.add_argument("--rows", type=numbers, default=[1, 4, 16, 64, 512])
    parser.add_argument(
        "--dtype", type=words, default=["int4"], help="int4, int4-affine, int8, bf16, …"
    )
    parser.add_argument("--prompt", action="store_true", help="the rows are prompt tokens: bf16")
    parser.add_argument("--threads", type=numbers, default=[num_threads()])
    parser.add_argument("--isa", type=words, default=[isa()], help=f"of {available_isas()}")
    parser.add_argument("--working-set", type=int, default=90, metavar="MB")
    parser.add_argument("--min-s", type=float, default=0.1, help="seconds per timed round")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if not args.json:
        print("isa       thr dtype        n_out   n_in  rows         us     GOPS    GB/s")
    for result in measure(args):
        if args.json:
            print(json.dumps(result), flush=True)
        else:
            print(
                "{isa:<9} {threads:>3} {dtype:<11} {n_out:>6} {n_in:>6} {rows:>5}"
                " {microseconds:>10} {gops:>8} {gb_s:>7}".format(**result),
                flush=True,
            )


if __name__ == "__main__":
    main()
