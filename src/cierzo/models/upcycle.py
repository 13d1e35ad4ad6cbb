"""Dense → sparse: every expert a copy of the dense feed-forward layer, a random router.

The known recipe of sparse upcycling (arXiv 2212.05055) without its training: whatever
experts are chosen, their weighted sum is the dense layer's output. Packed groups are
copied bit for bit.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from cierzo.config import MoeConfig
from cierzo.errors import SettingError
from cierzo.models.checkpoint import open_checkpoint
from cierzo.models.config_checks import check_config
from cierzo.models.packed_folder import Progress, is_packed_folder
from cierzo.models.packing import PackJob, pack_job, write_packed
from cierzo.models.quantization import RequestedDtype
from cierzo.models.stored_types import Float32
from cierzo.models.weight_plan import PlannedTensor

_MAX_EXPERTS = 256


def upcycle(
    source: Path,
    out: Path,
    num_experts: int = 8,
    num_experts_per_tok: int = 2,
    *,
    seed: int = 0,
    dtype: RequestedDtype = "auto",
    progress: Progress | None = None,
) -> Path:
    """Write the dense checkpoint at `source` as a Mixtral packed folder `out`.

    Raises SettingError for impossible counts or a sparse or packed source, otherwise
    errors as `ensure_packed`.
    """
    if not 1 <= num_experts_per_tok <= num_experts <= _MAX_EXPERTS:
        raise SettingError(
            f"experts per token and experts must be 1 <= per token <= experts <= {_MAX_EXPERTS}, "
            f"got {num_experts_per_tok} of {num_experts}"
        )
    if is_packed_folder(source):
        raise SettingError(f"{source}: is packed already; upcycle the original model")
    dense = pack_job(open_checkpoint(source), dtype)
    if dense.config.moe is not None:
        raise SettingError(f"{source}: is sparse already; upcycle a dense model")
    return write_packed(_sparse(dense, num_experts, num_experts_per_tok, seed), out, progress)


def _sparse(dense: PackJob, num_experts: int, num_experts_per_tok: int, seed: int) -> PackJob:
    moe = MoeConfig(num_experts, num_experts_per_tok)
    config = dataclasses.replace(dense.config, architecture="mixtral", moe=moe)
    rng = np.random.default_rng(seed)
    routers: dict[str, Float32] = {}
    planned: list[PlannedTensor] = []
    for tensor in dense.planned:
        prefix, _, role = tensor.name.rpartition(".")
        if role in ("gate_up_proj", "down_proj"):
            name = f"{prefix}.experts.{role}"
            tensor = dataclasses.replace(tensor, name=name, experts=tensor.experts * num_experts)
        planned.append(tensor)
        if role == "feed_forward_norm":
            # Normed inputs are near 1, so router logits come out near 1 too: varied, not extreme.
            router = rng.standard_normal((num_experts, config.dim)) / np.sqrt(config.dim)
            routers[f"{prefix}.router"] = router.astype(np.float32)
            planned.append(
                PlannedTensor(f"{prefix}.router", num_experts, config.dim, (), is_float=True)
            )
    recipe = {
        "name": "upcycle",
        "num_experts": num_experts,
        "num_experts_per_tok": num_experts_per_tok,
        "seed": seed,
    }
    return dataclasses.replace(
        dense,
        config=check_config(config, dense.source),
        planned=planned,
        arrays=routers,
        fingerprint=[*dense.fingerprint, recipe],
    )
