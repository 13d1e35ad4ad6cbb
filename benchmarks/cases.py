"""What `make bench` measures: files, the works on each, threads and instruction sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.rivals.works import Work

PREFILL = Work("prefill", 512)
DECODE = Work("decode", 64, generate=64)
DECODE_AT_512 = Work("decode", 512, generate=64)
BEHIND_400 = Work("prefill", 60, cached=400)
MANY_DECODES = Work("decode", 64, batch=32, generate=64)
MANY_DECODES_SHORT = Work("decode", 32, batch=32, generate=32)
LONG_PREFILL = Work("prefill", 512, cached=7680)
LONG_DECODE = Work("decode", 64, generate=32, cached=8128)


@dataclass(frozen=True, slots=True)
class Case:
    """One file under some works. `threads` and `isa` None: all, and the best.

    `is_fast`: part of the run that nobody has to wait for. `rounds` None: as many as asked for.
    """

    model: str
    quant: str
    works: tuple[Work, ...]
    threads: int | None = None
    isa: Literal["avx512", "avx2", "portable"] | None = None
    is_fast: bool = False
    rounds: int | None = None

    @property
    def title(self) -> str:
        """`mixtral-mini q4_0`, and what is not as usual."""
        threads = "" if self.threads is None else f", {self.threads} thread"
        return f"{self.model} {self.quant}{threads}" + (f", {self.isa}" if self.isa else "")


CASES = (
    Case(
        "smollm2",
        "q4_0",
        (PREFILL, DECODE, DECODE_AT_512, MANY_DECODES, BEHIND_400),
        is_fast=True,
    ),
    Case("mixtral-mini", "q4_0", (PREFILL, DECODE, MANY_DECODES_SHORT), is_fast=True),
    Case("dense-mini", "q4_0", (PREFILL, DECODE), is_fast=True),
    Case("mistral-7b", "q4_0", (PREFILL, DECODE)),
    Case("mixtral-8x7b-slim", "q4_0", (PREFILL, DECODE)),
    Case("dense-47b-slim", "q4_0", (PREFILL, DECODE)),
    Case("mixtral-mini", "q4_k", (PREFILL, DECODE, MANY_DECODES_SHORT)),
    Case("smollm2", "q8_0", (PREFILL, DECODE)),
    Case("smollm2", "bf16", (PREFILL, DECODE)),
    Case("mixtral-mini", "q8_0", (PREFILL, DECODE)),
    Case("smollm2", "q4_0", tuple(Work("prefill", rows) for rows in (1, 4, 16, 64))),
    Case("smollm2", "q4_0", (PREFILL, DECODE), threads=1),
    Case("mixtral-mini", "q4_0", (PREFILL, DECODE), threads=1),
    Case("smollm2", "q4_0", (PREFILL, DECODE), isa="avx512"),
    Case("smollm2", "q4_0", (PREFILL, DECODE), isa="avx2"),
    Case("smollm2", "q4_0", (Work("prefill", 64), DECODE), isa="portable"),
    # Minutes for each: long prompts of one engine, long prefixes of another.
    Case("smollm2", "q4_0", (Work("prefill", 2048), Work("prefill", 8000)), rounds=1),
    # Few layers behind a full context: attention is the same in each.
    Case("mistral-7b-slim", "q4_0", (PREFILL, LONG_PREFILL, DECODE, LONG_DECODE), rounds=1),
)

DIVIDENDS = (("mixtral-mini", "dense-mini"), ("mixtral-8x7b-slim", "dense-47b-slim"))
"""(sparse, dense) shapes of equal parameters: what sparsity promises and what it gives."""
