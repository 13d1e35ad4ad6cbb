"""ForwardInput: accepts what a scheduler makes, refuses everything that could not be computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cierzo.kernels import ForwardInput


def arrays() -> dict[str, Any]:
    """Two sequences: 3 tokens of a context of 20, and one of 1."""
    return {
        "token_ids": np.array([5, 6, 7, 8], np.int32),
        "positions": np.array([17, 18, 19, 0], np.int32),
        "slot_mapping": np.array([17, 18, 19, 32], np.int32),
        "query_starts": np.array([0, 3, 4], np.int32),
        "context_lens": np.array([20, 1], np.int32),
        "block_tables": np.array([[0, 1], [2, -1]], np.int32),
        "cos": np.ones((4, 8), np.float32),
        "sin": np.zeros((4, 8), np.float32),
        "query_scale": np.ones(4, np.float32),
    }


def test_counts() -> None:
    step = ForwardInput(**arrays())
    assert (step.num_tokens, step.num_sequences, step.num_prompt_tokens) == (4, 2, 0)


@pytest.mark.parametrize("num_prompt_tokens", [0, 3, 4])
def test_prompt_tokens_are_whole_sequences(num_prompt_tokens: int) -> None:
    step = ForwardInput(**arrays(), num_prompt_tokens=num_prompt_tokens)
    assert step.num_prompt_tokens == num_prompt_tokens


@pytest.mark.parametrize(
    ("num_prompt_tokens", "message"),
    [
        (-1, "between 0 and 4; got -1"),
        (5, "between 0 and 4; got 5"),
        (2, "where a sequence begins or the last one ends; got 2"),
    ],
)
def test_prompt_tokens_out_of_place(num_prompt_tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"ForwardInput: num_prompt_tokens must be {message}"):
        ForwardInput(**arrays(), num_prompt_tokens=num_prompt_tokens)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("token_ids", [5, -6, 7, 8], "token_ids must be >= 0; got -6"),
        ("positions", [17, 18, 19, -1], "positions must be >= 0; got -1"),
        ("positions", [17, 18, 19], "positions must have 4 values; got 3"),
        ("slot_mapping", [17, 18, 19, -32], "slot_mapping must be >= 0; got -32"),
        ("query_starts", [0, 5, 4], "query_starts must not decrease; got 4"),
        ("query_starts", [1, 3, 4], "query_starts must begin with 0; got 1"),
        ("query_starts", [0, 3, 5], "query_starts must end with the number of tokens, 4; got 5"),
        ("query_starts", [0, 4], "query_starts must have 3 values; got 2"),
        ("query_starts", [], "query_starts must have 3 values; got 0"),
        ("context_lens", [2, 1], "context_lens must count this step's tokens, here 3 .* got 2"),
        ("context_lens", [33, 1], "block_tables must hold the 3 blocks of sequence 0; got 2"),
        ("context_lens", [2147483647, 1], "block_tables must hold the 134217728 blocks"),
        ("block_tables", [[0, 1], [2, -2]], "block_tables must be >= -1; got -2"),
        ("block_tables", [[0, 1]], "block_tables must have 4 values; got 2"),
        ("cos", [[1.0] * 7] * 4, "sin must have 28 values; got 32"),
        ("query_scale", [1.0], "query_scale must have 4 values; got 1"),
    ],
)
def test_what_cannot_be_computed_is_refused(name: str, value: list[Any], message: str) -> None:
    given = arrays()
    given[name] = np.array(value, given[name].dtype)
    with pytest.raises(ValueError, match=f"ForwardInput: {message}"):
        ForwardInput(**given)


@pytest.mark.parametrize("name", arrays())
def test_other_types_are_refused_not_converted(name: str) -> None:
    given = arrays()
    given[name] = given[name].astype(np.float64)
    with pytest.raises(TypeError):
        ForwardInput(**given)


def test_the_arrays_are_copied() -> None:
    given = arrays()
    step = ForwardInput(**given)
    given["query_starts"][:] = 1000
    assert step.num_tokens == 4
