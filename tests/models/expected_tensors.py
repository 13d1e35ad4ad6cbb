"""What a packed folder must hold for given weights, and what it does hold."""

from __future__ import annotations

import numpy as np

from cierzo.config import ModelConfig
from cierzo.models.packed_folder import PackedFolder
from tests.models import tile_twin
from tests.tiny_models import Float32, Weights


def expected_tensors(config: ModelConfig, weights: Weights) -> Weights:
    """Our stacked tensors [n_out, n_in] (experts [E, n_out, n_in]) from weights by our names."""
    expected: Weights = {"norm": weights["norm"][None], "embedding": weights["embedding"]}
    if not config.tied_embeddings:
        expected["output"] = weights["output"]
    for n in range(config.n_layers):
        p = f"layers.{n}."
        for name in ("attention_norm", "feed_forward_norm"):
            expected[p + name] = weights[p + name][None]
        expected[p + "o_proj"] = weights[p + "o_proj"]
        expected[p + "qkv_proj"] = np.concatenate(
            [weights[p + name] for name in ("q_proj", "k_proj", "v_proj")]
        )
        if config.moe is None:
            expected[p + "gate_up_proj"] = alternate(
                weights[p + "gate_proj"], weights[p + "up_proj"]
            )
            expected[p + "down_proj"] = weights[p + "down_proj"]
            continue
        experts = [f"{p}experts.{e}." for e in range(config.moe.num_experts)]
        expected[p + "router"] = weights[p + "router"]
        expected[p + "experts.gate_up_proj"] = np.stack(
            [alternate(weights[e + "gate_proj"], weights[e + "up_proj"]) for e in experts]
        )
        expected[p + "experts.down_proj"] = np.stack([weights[e + "down_proj"] for e in experts])
    return expected


def alternate(gate: Float32, up: Float32) -> Float32:
    """Panels of 16 rows: gate, up, gate, up, …"""
    panels = np.stack([gate.reshape(-1, 16, gate.shape[1]), up.reshape(-1, 16, up.shape[1])], 1)
    return panels.reshape(-1, gate.shape[1])


def unpacked(packed: PackedFolder, name: str) -> Float32:
    """A packed tensor's weights, by the slow twin: [n_out, n_in] or [E, n_out, n_in]."""
    entry = packed.entries[name]
    if entry.dtype == "float32":
        return packed.array(name)
    experts = packed.raw(name).reshape(entry.n_experts, -1)
    matrices = [
        tile_twin.unpack(raw, entry.dtype, entry.affine, entry.n_out, entry.n_in) for raw in experts
    ]
    return np.stack(matrices) if len(matrices) > 1 else matrices[0]


def relative_error(stored: Float32, packed: Float32) -> float:
    return float(np.sqrt(np.square(packed - stored).sum() / np.square(stored).sum()))


def assert_holds(
    packed: PackedFolder, weights: Weights, *, max_relative_error: float = 0.0
) -> None:
    """Every tensor is there, within the error, and the manifest reports that error."""
    expected = expected_tensors(packed.config, weights)
    assert set(packed.entries) == set(expected)
    for name, stored in expected.items():
        error = relative_error(stored, unpacked(packed, name))
        assert error <= max_relative_error, name
        assert abs(error - packed.entries[name].relative_error) < 1e-5, name
