"""A model in this process: obtained, packed with a progress bar, loaded; its answers as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from cierzo import kernels
from cierzo.cli.console import byte_progress
from cierzo.cli.obtain import obtain
from cierzo.engine.request import GenerationRequest, SamplingParams
from cierzo.errors import EngineError
from cierzo.llm import LLM
from cierzo.models.loading import ensure_packed
from cierzo.settings import Settings
from cierzo.tokenizer.chat_prompt import ChatPrompt
from cierzo.tokenizer.detokenizer import Detokenizer


@contextmanager
def open_model(name: str, settings: Settings, num_models: int = 1) -> Iterator[LLM]:
    """The model by that name or path, ready to run. `num_models` share the memory."""
    if settings.isa is not None:
        kernels.set_isa(settings.isa)
    source = obtain(name, settings.home)
    with byte_progress("packing") as progress:
        packed = ensure_packed(
            source,
            settings.dtype,
            cache_dir=settings.home / "packed",
            progress=lambda done, total, tensor: progress(name, done, total),
        )
    llm = LLM(packed, settings=settings)
    try:
        yield llm
    finally:
        llm.close()


def stream_chat(
    llm: LLM, messages: Sequence[Mapping[str, Any]], params: SamplingParams
) -> Iterator[str]:
    """The answer to a conversation, piece by piece. Closing the iterator stops the engine."""
    prompt = ChatPrompt(llm.tokenizer)
    try:
        token_ids = prompt.encode(messages)
    finally:
        prompt.close()
    return stream_text(llm, token_ids, params)


def stream_text(
    llm: LLM, token_ids: Sequence[int], params: SamplingParams, *, continues: bool = False
) -> Iterator[str]:
    """The text that follows a prompt; `continues` keeps its first space."""
    detokenizer = Detokenizer(llm.tokenizer, keep_first_space=continues)
    request = GenerationRequest(
        uuid4().hex, tuple(token_ids), params, stop_token_ids=llm.tokenizer.eos_ids
    )
    stream = llm.engine.submit(request)
    try:
        for event in stream:
            if event.finish_reason == "error":
                raise EngineError(event.error or "the engine failed without saying why")
            if event.token_id is not None and (text := detokenizer.add(event.token_id)):
                yield text
        if rest := detokenizer.flush():
            yield rest
    finally:
        stream.close()
