"""Logits of a checkpoint by `transformers`, in float32: the oracle, knowing nothing of us.

Runs in an environment of its own (torch, transformers, gguf, accelerate):
    python transformers_logits.py JOBS.json OUT.npz
JOBS.json: {"token_ids": [...], "sources": {case: folder or GGUF file}};
OUT.npz: case → [n_tokens, vocab_size], and for sparse models case.margin → [n_tokens], how far
the worst layer's last chosen expert was ahead of the first not chosen (in router logits).
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    token_ids = torch.tensor([jobs["token_ids"]])
    arrays = {}
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
        is_sparse = hasattr(model.config, "num_local_experts")
        with torch.no_grad():
            output = model(token_ids, **({"output_router_logits": True} if is_sparse else {}))
        arrays[case] = output.logits[0].numpy()
        if is_sparse:
            arrays[f"{case}.margin"] = router_margin(
                output.router_logits, model.config.num_experts_per_tok
            )
    np.savez(sys.argv[2], **arrays)


def router_margin(layers: Any, count: int) -> Any:
    """float32 [n_tokens]: smallest over the layers."""
    margins = []
    for scores in layers:
        is_softmax = torch.allclose(scores.sum(-1), torch.ones(len(scores)), atol=1e-4)
        ranked = (scores.log() if is_softmax else scores).sort(-1, descending=True).values
        margins.append(ranked[:, count - 1] - ranked[:, count])
    return torch.stack(margins).min(0).values.numpy()


main()
