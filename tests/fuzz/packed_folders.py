"""Target: damaged packed folders: the manifest (mostly with a true checksum) and the weights.

A folder is refused with a CierzoError, or it computes. The kernels must never see a lie.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cierzo.models.inspect import inspect_model
from cierzo.models.loading import quantize
from cierzo.models.packed_folder import MANIFEST, WEIGHTS, open_packed
from tests.fuzz.checkpoints import one_step
from tests.fuzz.mutations import Mutator
from tests.tiny_checkpoints import tiny_model, write_huggingface


def open_target(work: Path) -> Callable[[random.Random, Path], None]:
    """Packs sound models into `work`; the result opens and runs one damaged copy."""
    sound = []
    for name in ("mistral", "mixtral", "ministral3", "llama3"):
        write_huggingface(work / name, tiny_model(name, n_layers=1, hidden_dim=64))
        for dtype in ("int4", "bf16"):
            out = work / f"{name}-{dtype}"
            sound.append(quantize(work / name, out, dtype))

    def run(rng: random.Random, folder: Path) -> None:
        mutator = Mutator(rng)
        packed = folder / "packed"
        shutil.copytree(rng.choice(sound), packed)
        if mutator.chance(0.15):
            path = packed / WEIGHTS
            path.write_bytes(mutator.damaged_bytes(path.read_bytes()))
        else:
            path = packed / MANIFEST
            path.write_bytes(_damaged_manifest(mutator, path.read_bytes()))
        inspect_model(packed)
        one_step(open_packed(packed))

    return run


def _damaged_manifest(mutator: Mutator, data: bytes) -> bytes:
    if mutator.chance(0.15):
        return mutator.damaged_bytes(data)
    body: Any = json.loads(data)["model"]
    if mutator.chance(0.5):
        part = mutator.rng.choice(("config", "tensors"))
        body[part] = mutator.damaged_json(body[part])
    else:
        body = mutator.damaged_json(body)
    # As an attacker would: the checksum guards against accidents only.
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    checksum = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps({"sha256": checksum, "model": body}).encode()
