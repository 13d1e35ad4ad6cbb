"""Logits of a checkpoint by `transformers`, in float32: the oracle, knowing nothing of us.

Runs in an environment of its own (torch, transformers, gguf, accelerate):
    python transformers_logits.py JOBS.json OUT.npz
JOBS.json: {"token_ids": [...], "sources": {case: folder or GGUF file}};
OUT.npz: case → [n_tokens, vocab_size].
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    token_ids = torch.tensor([jobs["token_ids"]])
    logits = {}
    for case, source in jobs["sources"].items():
        path = Path(source)
        is_gguf = path.suffix == ".gguf"
        model, loading = AutoModelForCausalLM.from_pretrained(
            path.parent if is_gguf else path,
            gguf_file=path.name if is_gguf else None,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if loading.get(problem):
                sys.exit(f"{case}: {problem}: {loading[problem]}")
        with torch.no_grad():
            logits[case] = model(token_ids).logits[0].numpy()
    np.savez(sys.argv[2], **logits)


main()
