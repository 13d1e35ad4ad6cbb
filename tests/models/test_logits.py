"""Logits against `transformers` (gold files), for every architecture, format and block type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cierzo import kernels
from tests.models.running import logits_of, open_transformer
from tests.oracle.cases import (
    BF16_CASES,
    CASES,
    GGUF_CASES,
    GOLD_FILE,
    PACKED_CASES,
    TOKEN_IDS,
    Case,
    fingerprint,
)
from tests.oracle.compare import RowErrors, open_case
from tests.tiny_checkpoints import BlockType, write_consolidated, write_gguf, write_huggingface

MAX_ERROR_BF16 = 0.08
"""Largest absolute logit error at bf16 (activations rounded to bf16); logits span about ±4."""

MAX_RELATIVE_ERROR = 0.05
"""Root mean square logit error of a row over the logits' own spread, with int8 activations, for
block types whose weights are kept as they are. Random weights are the worst case: nothing in them
is redundant."""

MAX_RELATIVE_ERROR_REQUANTISED = 0.1
"""The same for block types with groups of 16, whose weights are rounded to int8 groups of 32."""

BF16_FORMATS = (
    "huggingface-4",
    "huggingface-5",
    "huggingface-sharded",
    "huggingface-wrapped",
    "consolidated",
    "gguf",
)


def write_bf16(path: Path, case: Case, file_format: str) -> Path:
    """The case's bf16 checkpoint in one of the formats; returns what to open."""
    model = case.model()
    match file_format:
        case "gguf":
            path = path / "model.gguf"
            write_gguf(path, model, block_type=BlockType.BF16)
        case "consolidated":
            write_consolidated(path, model, num_shards=2)
        case "huggingface-4":
            write_huggingface(path, model, style="4")
        case "huggingface-5":
            write_huggingface(path, model, style="5", merged_experts=True)
        case "huggingface-sharded":
            write_huggingface(path, model, num_shards=3)
        case "huggingface-wrapped":
            write_huggingface(path, model, style="5", wrapped=True)
    return path


def has_format(case: Case, file_format: str) -> bool:
    """Llama models have no params.json; only Ministral 3 is published inside a wrapper."""
    architecture = case.model().config.architecture
    if file_format == "consolidated":
        return architecture != "llama"
    if file_format == "huggingface-wrapped":
        return architecture == "ministral3"
    if file_format == "gguf":
        # GGUF has one window for all layers.
        return case.config_name != "mistral-window-list"
    return True


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_gold_was_made_from_these_weights(case: Case, tmp_path: Path) -> None:
    with np.load(GOLD_FILE) as gold:
        stored = str(gold[f"{case.name}.weights"])
    assert stored == fingerprint(case.weights(tmp_path), case.model().config)


@pytest.mark.parametrize(
    ("case", "file_format"),
    [(c, f) for c in BF16_CASES for f in BF16_FORMATS if has_format(c, f)],
    ids=lambda value: value.name if isinstance(value, Case) else value,
)
def test_bf16_logits(case: Case, file_format: str, tmp_path: Path) -> None:
    model = open_transformer(write_bf16(tmp_path / "model", case, file_format))
    errors = RowErrors.of(case, logits_of(model, TOKEN_IDS))
    assert errors.are_within(MAX_ERROR_BF16, errors.largest)


@pytest.mark.parametrize("case", GGUF_CASES + PACKED_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("num_prompt_tokens", [0, len(TOKEN_IDS)], ids=["completion", "prompt"])
def test_quantised_logits(case: Case, num_prompt_tokens: int, tmp_path: Path) -> None:
    model = open_case(case, tmp_path)
    logits = logits_of(model, TOKEN_IDS, num_prompt_tokens=num_prompt_tokens)
    errors = RowErrors.of(case, logits)
    is_requantised = case.block_type in (BlockType.Q2_K, BlockType.Q3_K, BlockType.Q6_K)
    limit = MAX_RELATIVE_ERROR_REQUANTISED if is_requantised else MAX_RELATIVE_ERROR
    assert errors.are_within(limit, errors.relative)


def test_split_experts_are_the_merged_ones(tmp_path: Path) -> None:
    merged, split = tmp_path / "merged.gguf", tmp_path / "split.gguf"
    model = Case("mixtral").model()
    write_gguf(merged, model, block_type=BlockType.Q4_0)
    write_gguf(split, model, block_type=BlockType.Q4_0, split_experts=True)
    expected = logits_of(open_transformer(merged), TOKEN_IDS)
    np.testing.assert_array_equal(logits_of(open_transformer(split), TOKEN_IDS), expected)


@pytest.mark.parametrize("name", ["mistral-window-list", "mixtral", "ministral3", "llama3"])
@pytest.mark.parametrize("block_type", [BlockType.BF16, BlockType.Q4_1, BlockType.Q8_0])
def test_a_row_depends_on_itself_alone(name: str, block_type: BlockType, tmp_path: Path) -> None:
    """Whole = chunked, one thread = two, every instruction set = the best one, to the bit."""
    case = Case(name)
    if has_format(case, "gguf"):
        path = tmp_path / "model.gguf"
        write_gguf(path, case.model(), block_type=block_type)
    else:
        path = write_bf16(tmp_path / "model", case, "huggingface-4")
    model = open_transformer(path, tells_prompt_apart=True)
    whole = logits_of(model, TOKEN_IDS, [40, 40], num_prompt_tokens=40)
    for chunks in ([1] * 80, [7, 16, 17, 1, 39], [39, 1, 33, 7]):
        np.testing.assert_array_equal(logits_of(model, TOKEN_IDS, chunks, 40), whole)
    best_isa, num_threads = kernels.isa(), kernels.num_threads()
    try:
        for isa in kernels.available_isas():
            kernels.set_isa(isa)
            for threads in (1, 2):
                kernels.set_num_threads(threads)
                logits = logits_of(model, TOKEN_IDS, [24, 16, 40], num_prompt_tokens=40)
                np.testing.assert_array_equal(logits, whole)
    finally:
        kernels.set_isa(best_isa)
        kernels.set_num_threads(num_threads)
