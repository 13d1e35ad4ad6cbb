"""Write (or with --check, compare) the gold logits under tests/gold/.

    python -m tests.oracle.make_gold --oracle PYTHON [--check]

PYTHON is the interpreter of the environment that has torch and transformers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cierzo import hub
from cierzo.models.loading import ensure_packed
from cierzo.settings import load_settings
from cierzo.tokenizer.loading import load_tokenizer
from tests.oracle import default_model
from tests.oracle.cases import CASES, GOLD_FILE, GOLD_ROWS, TOKEN_IDS, fingerprint
from tests.tiny_checkpoints import TinyModel, write_huggingface

Gold = dict[str, NDArray[Any]]

TOLERANCE = 1e-4
"""Between two builds of the oracle itself, which may add up in another order."""


def ask_oracle(
    oracle_python: str, sources: Mapping[str, Path], token_ids: Sequence[int], scratch: Path
) -> Gold:
    """What the oracle says of each source, in float32: `transformers_logits.py` lists it."""
    jobs, out = scratch / "jobs.json", scratch / "logits.npz"
    paths = {name: str(path) for name, path in sources.items()}
    jobs.write_text(json.dumps({"token_ids": list(token_ids), "sources": paths}))
    script = Path(__file__).parent / "transformers_logits.py"
    subprocess.run([oracle_python, script, jobs, out], check=True)
    with np.load(out) as logits:
        return {name: logits[name] for name in logits.files}


def tiny_gold(oracle_python: str, scratch: Path) -> Gold:
    """Case → gold rows of float32 logits, and case.weights → the weights' fingerprint."""
    sources: dict[str, Path] = {}
    gold: Gold = {}
    for case in CASES:
        model = case.model()
        weights = case.weights(scratch)
        sources[case.name] = scratch / case.name
        write_huggingface(
            sources[case.name], TinyModel(model.config, weights), dtype="f32", style="5"
        )
        gold[f"{case.name}.weights"] = np.array(fingerprint(weights, model.config))
    logits = ask_oracle(oracle_python, sources, TOKEN_IDS, scratch)
    return gold | {name: rows[GOLD_ROWS] for name, rows in logits.items()}


def default_model_gold(oracle_python: str, scratch: Path) -> Gold:
    """Token ids of the text, and the oracle's best alternatives after each."""
    path = hub.pull(hub.DEFAULT_MODEL, home=load_settings().home).path
    token_ids = default_model_tokens(path)
    (logits,) = ask_oracle(oracle_python, {"default": path}, token_ids, scratch).values()
    ids, logprobs = default_model.best_alternatives(logits)
    return {"token_ids": np.array(token_ids, np.int32), "ids": ids, "logprobs": logprobs}


def default_model_tokens(path: Path) -> list[int]:
    tokenizer = load_tokenizer(ensure_packed(path))
    return tokenizer.encode(default_model.text())[: default_model.NUM_TOKENS]


def check(path: Path, live: Gold) -> int:
    """Number of arrays whose stored gold is not what the oracle says today."""
    wrong = 0
    with np.load(path) as gold:
        for name, array in live.items():
            if array.dtype == np.float32:
                error = float(np.abs(gold[name] - array).max())
                is_same, detail = error <= TOLERANCE, f"max |gold - live| = {error:.2e}"
            else:
                is_same, detail = bool(np.all(gold[name] == array)), "exact"
            wrong += not is_same
            print(f"{name:32} {'ok' if is_same else 'WRONG':5} {detail}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oracle", required=True)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    wrong = 0
    for path, make in ((GOLD_FILE, tiny_gold), (default_model.GOLD_FILE, default_model_gold)):
        with tempfile.TemporaryDirectory() as scratch:
            live = make(arguments.oracle, Path(scratch))
        if arguments.check:
            wrong += check(path, live)
        else:
            path.parent.mkdir(exist_ok=True)
            np.savez_compressed(path, **live)  # type: ignore[arg-type]
            print(f"{path}: {path.stat().st_size} bytes")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
