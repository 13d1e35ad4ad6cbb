"""The default model on real language: against the oracle, and through the sparse path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cierzo import LLM, SamplingParams
from cierzo.models.upcycle import upcycle
from tests.oracle import default_model

PROMPTS = [
    "The capital of France is",
    "Water boils at a temperature of",
    "def add(a, b):\n    return",
    "In the year 1969, for the first time in history,",
]
GREEDY = SamplingParams(temperature=0, max_tokens=24)


@pytest.fixture(scope="module")
def dense(default_model_path: Path) -> Iterator[LLM]:
    with LLM(str(default_model_path), max_model_len=512) as llm:
        yield llm


@pytest.fixture(scope="module")
def sparse(default_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = upcycle(default_model_path, tmp_path_factory.mktemp("sparse") / "model", 8, 2)
    with LLM(str(folder), max_model_len=512) as llm:
        yield llm


def test_logprobs_are_the_oracles(dense: LLM) -> None:
    """Perplexity within 1 % of float32 transformers on the dequantised weights, and the same
    best token after 9 of 10; int8 activations cost the rest."""
    with np.load(default_model.GOLD_FILE) as gold:
        token_ids, best_ids = gold["token_ids"].tolist(), gold["ids"]
        gold_logprobs = gold["logprobs"]
    logprobs = default_model.logprobs(dense.logits(token_ids))
    assert (logprobs.argmax(axis=1) == best_ids[:, 0]).mean() > 0.9

    ours = np.take_along_axis(logprobs, best_ids, axis=1)
    is_next = best_ids[:-1] == np.array(token_ids)[1:, None]
    assert is_next.sum() > 200, "the text should mostly be what the model expects"
    difference = gold_logprobs[:-1][is_next].mean() - ours[:-1][is_next].mean()
    assert abs(np.exp(difference) - 1) < 0.01


def test_upcycled_experts_speak_as_the_dense_layer(dense: LLM, sparse: LLM) -> None:
    expected = [completion.outputs[0].text for completion in dense.generate(PROMPTS, GREEDY)]
    assert all(expected)
    together = [completion.outputs[0].text for completion in sparse.generate(PROMPTS, GREEDY)]
    assert together == expected
    alone = [sparse.generate([prompt], GREEDY)[0].outputs[0].text for prompt in PROMPTS]
    assert alone == expected
