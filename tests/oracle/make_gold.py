"""Write (or with --check, compare) the gold logits: tests/gold/logits.npz.

    python -m tests.oracle.make_gold --oracle PYTHON [--check]

PYTHON is the interpreter of the environment that has torch and transformers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.oracle.cases import CASES, GOLD_FILE, GOLD_ROWS, TOKEN_IDS, fingerprint
from tests.tiny_checkpoints import TinyModel, write_huggingface

TOLERANCE = 1e-5
"""Between two builds of the oracle itself, which may add up in another order."""


def oracle_logits(oracle_python: str, scratch: Path) -> dict[str, np.ndarray]:
    """Case → gold rows of float32 logits, and case.weights → the weights' fingerprint."""
    folders: dict[str, str] = {}
    gold: dict[str, np.ndarray] = {}
    for case in CASES:
        model = case.model()
        weights = case.weights(scratch)
        folder = scratch / case.name
        write_huggingface(folder, TinyModel(model.config, weights), dtype="f32", style="5")
        folders[case.name] = str(folder)
        gold[f"{case.name}.weights"] = np.array(fingerprint(weights, model.config))
    jobs, out = scratch / "jobs.json", scratch / "logits.npz"
    jobs.write_text(json.dumps({"token_ids": TOKEN_IDS, "folders": folders}))
    script = Path(__file__).parent / "transformers_logits.py"
    subprocess.run([oracle_python, script, jobs, out], check=True)
    with np.load(out) as logits:
        for name in logits.files:
            gold[name] = logits[name][GOLD_ROWS].astype(np.float32)
    return gold


def check(live: dict[str, np.ndarray]) -> int:
    """Number of cases whose stored gold is not what the oracle says today."""
    wrong = 0
    with np.load(GOLD_FILE) as gold:
        for case in CASES:
            same_weights = str(gold[f"{case.name}.weights"]) == str(live[f"{case.name}.weights"])
            error = float(np.abs(gold[case.name] - live[case.name]).max())
            verdict = "ok" if same_weights and error <= TOLERANCE else "WRONG"
            wrong += verdict != "ok"
            print(f"{case.name:28} {verdict}  max |gold - live| = {error:.2e}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oracle", required=True)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        live = oracle_logits(arguments.oracle, Path(scratch))
    if arguments.check:
        sys.exit(1 if check(live) else 0)
    GOLD_FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLD_FILE, **live)  # type: ignore[arg-type]
    print(f"{GOLD_FILE}: {len(CASES)} cases, {GOLD_FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
