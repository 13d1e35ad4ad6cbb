"""The real engine and a real tokenizer behind a socket; only the model is a stand-in.

Its logits are noise that depends on every token before, read back through the paged KV cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cierzo.classifiers.definition import ClassifierFolder
from cierzo.config import EngineConfig
from cierzo.engine import Engine
from cierzo.jobs.worker import run_jobs
from cierzo.kernels import Tensor
from cierzo.models.transformer import StepArrays
from cierzo.server.chat_text import ChatText
from cierzo.server.config import ServerConfig
from cierzo.server.schemas.models import Capabilities
from cierzo.server.token_model import TokenModel
from cierzo.store import Database
from cierzo.tokenizer.chat_prompt import ChatPrompt
from cierzo.tokenizer.fim_prompt import can_fill_in
from cierzo.tokenizer.loading import load_tokenizer
from cierzo.tokenizer.tokenizer import Tokenizer
from tests.engine.fake_model import FakeModel
from tests.server.live import LiveServer, live_server
from tests.tokenizer.tekken_files import write_tekken


class NoiseModel(FakeModel):
    """With a `gate` its steps wait until that is set."""

    def __init__(self, vocab_size: int, gate: Event | None = None) -> None:
        super().__init__()
        self._gate = gate
        self.config = replace(self.config, vocab_size=vocab_size)
        self.logits = Tensor(0, vocab_size)

    def forward(self, step: StepArrays, kv_cache: Any, logits_rows: NDArray[np.int32]) -> Tensor:
        if self._gate is not None:
            self._gate.wait()
        return super().forward(step, kv_cache, logits_rows)

    def _row_logits(self, step: Any, kv_cache: NDArray[np.int32], row: int) -> NDArray[np.float32]:
        last = np.searchsorted(step.query_starts, row, side="right") - 1
        length = int(step.context_lens[last] - (step.query_starts[last + 1] - 1 - row))
        positions = np.arange(length)
        blocks = step.block_tables[last, positions // 16]
        tokens = kv_cache[blocks * 16 + positions % 16, 0]
        noise = np.random.default_rng(tokens.astype(np.uint32))
        return noise.standard_normal(self.config.vocab_size, dtype=np.float32) * 3


@contextmanager
def tiny_server(
    tokenizer: Tokenizer,
    server_config: ServerConfig | None = None,
    database: Database | None = None,
    gate: Event | None = None,
    classifiers: ClassifierFolder | None = None,
    **config: Any,
) -> Iterator[tuple[LiveServer, Engine]]:
    """With a `gate` the model computes while that is set."""
    engine_config = EngineConfig(**{"max_model_len": 512, "num_blocks": 256, **config})
    engine = Engine(NoiseModel(tokenizer.vocab_size, gate), engine_config)
    text = ChatText(tokenizer, ChatPrompt(tokenizer), tokenizer.vocab_size)
    model = TokenModel(
        id="tiny",
        engine=engine,
        text=text,
        created=1_700_000_000,
        max_context_length=engine_config.max_model_len,
        embedding_dim=tokenizer.vocab_size,
        capabilities=Capabilities(
            completion_chat=True,
            function_calling=True,
            completion_fim=can_fill_in(tokenizer),
        ),
    )
    try:
        with live_server(
            [model], server_config, database, classifiers, background=run_jobs
        ) as server:
            yield server, engine
    finally:
        if gate is not None:
            gate.set()
        engine.close()


def num_submitted(engine: Engine) -> int:
    """How many requests it has taken, those among them that no step has seen yet."""
    return engine._num_submitted


def tekken(folder: Path, version: str) -> Tokenizer:
    return load_tokenizer(write_tekken(folder / version, version))
