"""Logits of a GGUF file's own weights by transformers in float32, for accuracy.py.

Runs in .venv-oracle: python -m benchmarks.rivals.reference_logits FILE.gguf WINDOWS.npy OUT.npz
OUT.npz: `nll` [windows, n − 1] of each token given those before it, `logits` of the first window.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    source, asked, answered = (Path(argument) for argument in sys.argv[1:])
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    losses = []
    first = np.empty(0, np.float32)
    with torch.no_grad():
        for window in torch.from_numpy(np.load(asked)).long():
            logits = model(window[None]).logits[0]
            losses.append(
                torch.nn.functional.cross_entropy(
                    logits[:-1].double(), window[1:], reduction="none"
                ).numpy()
            )
            first = first if first.size else logits.numpy()
    np.savez(answered, nll=np.stack(losses), logits=first)


main()
