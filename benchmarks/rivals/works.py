"""What is measured, in words that every engine's script understands.

A script is called as a module, from the repository's root, with `MODEL --threads N --works JSON`,
and prints one JSON object: `tok_s` with a number (or null: it cannot do that) for each work,
`load_s`, `peak_bytes`. It imports nothing of ours: rivals run in environments of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class Work:
    """`batch` sequences, each of `prompt` new tokens behind a common prefix of `cached`.

    "prefill": new prompt tokens per second, the prefix known before the clock starts. "decode":
    tokens per second of all sequences together, `generate` each after that prompt.
    """

    kind: Literal["prefill", "decode"]
    prompt: int
    batch: int = 1
    generate: int = 0
    cached: int = 0

    @property
    def context(self) -> int:
        """Tokens of a sequence when it ends."""
        return self.cached + self.prompt + self.generate

    @property
    def title(self) -> str:
        """`prefill 512`, `60 new tokens behind 400`, `32 decodes at once`, `decode at 512`."""
        if self.kind == "prefill":
            if self.cached:
                return f"{self.prompt} new tokens behind {self.cached}"
            return f"prefill {self.prompt}" + (f" × {self.batch}" if self.batch > 1 else "")
        at = f" at {self.prompt + self.cached}" if self.prompt + self.cached > 64 else ""
        return f"{self.batch} decodes at once{at}" if self.batch > 1 else f"decode{at}"


def works_to_json(works: Sequence[Work]) -> str:
    return json.dumps([asdict(work) for work in works])


def works_from_json(text: str) -> list[Work]:
    return [Work(**fields) for fields in json.loads(text)]
