"""Our logits against gold, row by row; as a program, the table of worst errors.

python -m tests.oracle.compare
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cierzo.models.loading import ensure_packed
from cierzo.models.packed_folder import open_packed
from cierzo.models.transformer import Transformer
from tests.models.running import Float32, logits_of
from tests.oracle.cases import CASES, GOLD_FILE, GOLD_ROWS, TOKEN_IDS, Case
from tests.tiny_checkpoints import write_gguf, write_huggingface

IN_TWO_MINDS = 0.1
"""Router margin (in logits, which spread by about 1) below which a rounding error may rightly
choose another expert: that row is then another row, and says nothing of our arithmetic."""


@dataclass(frozen=True)
class RowErrors:
    """Of the gold rows: the largest error, and the root mean square over the logits' spread."""

    largest: Float32
    relative: Float32
    is_decided: NDArray[np.bool_]

    def are_within(self, limit: float, errors: Float32) -> bool:
        """Every row within `limit`; of a sparse model's decided rows one in eight may be off, as
        they attend to rows that went to another expert."""
        off = errors[self.is_decided] > limit
        is_sparse = not self.is_decided.all()
        return bool(self.is_decided.mean() > 0.5 and off.mean() <= (1 / 8 if is_sparse else 0))

    @classmethod
    def of(cls, case: Case, logits: Float32) -> RowErrors:
        """`logits` are ours of all TOKEN_IDS."""
        with np.load(GOLD_FILE) as gold:
            truth: Float32 = gold[case.name]
            margin = gold.get(f"{case.name}.margin", np.full(len(truth), np.inf))
        error = np.abs(logits[GOLD_ROWS] - truth)
        return cls(
            error.max(axis=1),
            np.sqrt((error**2).mean(axis=1)) / truth.std(),
            margin > IN_TWO_MINDS,
        )


def open_case(case: Case, scratch: Path) -> Transformer:
    """The case's checkpoint in its plainest format, packed as the case says; it tells prompt tokens
    apart on every machine."""
    if case.block_type is None:
        path = scratch / "model"
        write_huggingface(path, case.model())
    else:
        path = scratch / "model.gguf"
        write_gguf(path, case.model(), block_type=case.block_type)
    weights = open_packed(ensure_packed(path, case.dtype or "auto"))
    return Transformer(weights, tells_prompt_apart=True)


def main() -> None:
    print(
        "| case | tokens | largest error | relative error | rows left out |\n|---|---|---|---|---|"
    )
    for case in CASES:
        with tempfile.TemporaryDirectory() as scratch:
            model = open_case(case, Path(scratch))
            for tokens, num_prompt_tokens in (("prompt", len(TOKEN_IDS)), ("completion", 0)):
                logits = logits_of(model, TOKEN_IDS, num_prompt_tokens=num_prompt_tokens)
                errors = RowErrors.of(case, logits)
                kept = errors.is_decided
                largest = np.sort(errors.largest[kept])[::-1]
                relative = np.sort(errors.relative[kept])[::-1]
                print(
                    f"| {case.name} | {tokens} | {largest[0]:.3f}, next row {largest[1]:.3f} "
                    f"| {relative[0]:.1%}, next row {relative[1]:.1%} | {(~kept).sum()} |"
                )


if __name__ == "__main__":
    main()
