"""A model for scripts: text or token ids in, text, logits or embeddings out. No server.

Composes hub, models, tokenizer and engine; each of them knows nothing of the others' business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from cierzo import hub, kernels
from cierzo.config import BLOCK_SIZE, EngineConfig, KvCacheDtype, ModelConfig
from cierzo.engine import (
    Engine,
    FinishReason,
    GenerationRequest,
    Reading,
    Readout,
    SamplingParams,
    TokenEvent,
    TokenLogprob,
    TokenStream,
)
from cierzo.engine.memory import plan_kv_cache
from cierzo.engine.readout import ReadPrompt, unit_length
from cierzo.engine.request import is_integer, token_ids_of
from cierzo.errors import ContextOverflowError, EngineError, RequestError, SettingError
from cierzo.kernels.setup import configure_kernels
from cierzo.machine import free_memory_bytes, total_memory_bytes
from cierzo.models.loading import ensure_packed
from cierzo.models.packed_folder import open_packed
from cierzo.models.transformer import Transformer
from cierzo.settings import Settings, load_settings, nbytes_of
from cierzo.tokenizer.chat_prompt import ChatPrompt
from cierzo.tokenizer.detokenizer import Detokenizer
from cierzo.tokenizer.loading import load_tokenizer
from cierzo.tokenizer.stop_strings import StopMatcher
from cierzo.tokenizer.tokenizer import Tokenizer, encode_whole

Prompt = str | Sequence[int]
"""Text, or its token ids, taken as they are."""


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One continuation. `token_ids` may run past `text` where a stop string cut it."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of one prompt: `params.n` outputs. `num_cached_tokens` of it were not computed
    again. `prompt_logprobs` has one entry per prompt token, None for the first."""

    prompt_token_ids: tuple[int, ...]
    outputs: tuple[CompletionOutput, ...]
    num_cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None

    @property
    def text(self) -> str:
        """The first output's text."""
        return self.outputs[0].text


def memory_ceiling(settings: Settings) -> int:
    """Bytes that this process may take: as the settings say, but never what others have."""
    return min(nbytes_of(settings.memory, total_memory_bytes()), free_memory_bytes())


class LLM:
    """A loaded model with its engine. Close it, or use it in a `with` block.

    `name_or_path` is a pulled model's name, a .gguf file, or a folder. What is not given comes
    from `settings`, or where these are None from the environment (CIERZO_*) and the defaults.
    Threads and instruction set are the process's: every open LLM computes on the same, the latest
    `isa` holds for all, and `threads` other than those of an LLM still open are refused.
    Raises ModelError and its kin, SettingError.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        dtype: Literal["auto", "bf16", "int8", "int4"] | None = None,
        threads: int | None = None,
        max_model_len: int | None = None,
        kv_cache_dtype: KvCacheDtype | None = None,
        settings: Settings | None = None,
    ) -> None:
        given = {
            "dtype": dtype,
            "threads": threads,
            "max_model_len": max_model_len,
            "kv_cache_dtype": kv_cache_dtype,
        }
        settings = load_settings(given, base=settings)
        configure_kernels(settings.isa, _threads_for(settings))
        source = hub.resolve(name_or_path, home=settings.home)
        folder = ensure_packed(source, settings.dtype, cache_dir=settings.home / "packed")
        packed = open_packed(folder)
        plan = plan_kv_cache(
            packed.config,
            weights_nbytes=packed.weights_nbytes,
            ceiling_nbytes=memory_ceiling(settings),
            max_model_len=settings.max_model_len,
            max_running=settings.max_running,
            token_budget=settings.token_budget,
            kv_cache_dtype=settings.kv_cache_dtype,
        )
        packed.read_ahead()
        token_nbytes = packed.config.kv_bytes_per_token(settings.kv_cache_dtype)
        self.folder = folder  # the packed one
        self.config: ModelConfig = packed.config
        self.kv_cache_nbytes = plan.num_blocks * BLOCK_SIZE * token_nbytes
        self.max_model_len = plan.max_model_len
        self.tokenizer: Tokenizer = load_tokenizer(folder)
        self.chat_prompt = ChatPrompt(self.tokenizer)
        self._max_waiting = settings.max_waiting
        self.engine = Engine(
            Transformer(packed, kv_cache_dtype=settings.kv_cache_dtype),
            EngineConfig(
                max_model_len=plan.max_model_len,
                token_budget=settings.token_budget,
                max_running=settings.max_running,
                max_waiting=self._max_waiting,
                num_blocks=plan.num_blocks,
                prefix_caching=settings.prefix_caching,
                speculation=settings.speculation,
            ),
        )
        _open_llms.add(self)

    def generate(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | None = None
    ) -> list[Completion]:
        """Continue each prompt, all at once. Text gets the model's beginning-of-sequence token,
        if it wants one; token ids are taken as they are.

        Raises RequestError for what cannot run, EngineError for what failed under way.
        """
        params = params or SamplingParams()
        encoded = [self._encode(prompt) for prompt in _as_list(prompts)]
        return [
            self._read(request, stream, continues=True)
            for request, stream in self._run_all(self._request(ids, params) for ids in encoded)
        ]

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Completion:
        """Answer a conversation in the API's shapes. Also raises PromptError."""
        token_ids = tuple(self.chat_prompt.encode(messages, tools))
        request = self._request(token_ids, params or SamplingParams())
        return self._read(request, self.engine.submit(request), continues=False)

    def stream_chat(
        self, messages: Sequence[Mapping[str, Any]], params: SamplingParams | None = None
    ) -> Iterator[str]:
        """The answer's text (the first, for n > 1) as it comes; leaving early stops the engine."""
        token_ids = tuple(self.chat_prompt.encode(messages))
        return self._stream(token_ids, params or SamplingParams(), continues=False)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[str]:
        """The continuation's text as it comes, likewise."""
        return self._stream(self._encode(prompt), params or SamplingParams(), continues=True)

    def logits(
        self,
        token_ids: Sequence[int] | NDArray[np.integer],
        num_prompt_tokens: int | None = None,
    ) -> NDArray[np.float32]:
        """Logits [n_tokens, vocab_size]: row i is the model's opinion of token i + 1.

        Tokens from `num_prompt_tokens` on (None: none of them) are computed as a completion's,
        which reproduces its logprobs; as a prompt's they differ by a rounding error.
        """
        return self.engine.logits(self._checked(token_ids), num_prompt_tokens)

    def embed(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        """One vector [dim] of length 1 per text, all computed together: the last token's hidden
        state after the final norm, or the mean over all tokens where the checkpoint says so."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        readout = Readout(pooling=self.config.pooling)
        prompts = (ReadPrompt(tuple(encode_whole(self.tokenizer, text)), readout) for text in texts)
        vectors = np.empty((len(texts), self.config.dim), np.float32)
        for vector, reading in zip(vectors, self.read(prompts), strict=True):
            assert reading.hidden is not None
            vector[:] = unit_length(reading.hidden)
        return vectors

    def read(self, prompts: Iterable[ReadPrompt]) -> Iterator[Reading]:
        """What each prompt's readout asks for, in order, all computed together."""
        nothing_more = SamplingParams(max_tokens=0)
        requests = (
            GenerationRequest("", prompt.token_ids, nothing_more, readout=prompt.readout)
            for prompt in prompts
        )
        for _, stream in self._run_all(requests):
            event = next(stream)
            if event.reading is None:
                raise EngineError(event.error or "the engine read nothing")
            yield event.reading

    def close(self) -> None:
        """Stop the engine and free what the model holds. Idempotent."""
        self.engine.close()
        self.chat_prompt.close()
        _open_llms.discard(self)

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return tuple(self.tokenizer.encode(prompt, add_bos=self.tokenizer.adds_bos))
        return token_ids_of(prompt, "prompt")

    def _checked(self, token_ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int32]:
        token_ids = token_ids_of(token_ids, "token_ids")
        if not token_ids:
            raise RequestError("a sequence needs at least one token; got none", param="token_ids")
        if len(token_ids) > self.max_model_len:
            raise ContextOverflowError(
                f"{len(token_ids)} tokens are over the context of {self.max_model_len}; shorten "
                "the text or raise max_model_len",
                param="token_ids",
            )
        if not 0 <= min(token_ids) <= max(token_ids) < self.config.vocab_size:
            raise RequestError(
                f"token ids must be in 0 … {self.config.vocab_size - 1}; got {min(token_ids)} … "
                f"{max(token_ids)}",
                param="token_ids",
            )
        return np.array(token_ids, np.int32)

    def _request(self, token_ids: tuple[int, ...], params: SamplingParams) -> GenerationRequest:
        return GenerationRequest("", token_ids, params, stop_token_ids=self.tokenizer.eos_ids)

    def _run_all(
        self, requests: Iterable[GenerationRequest]
    ) -> Iterator[tuple[GenerationRequest, TokenStream]]:
        """Each request with its stream, in order, as many running at once as the queue holds.

        A stream is to be read before the next is asked for.
        """
        waiting = iter(requests)
        started: deque[tuple[GenerationRequest, TokenStream]] = deque()
        try:
            while True:
                room = self._max_waiting - len(started)
                for request in islice(waiting, room):
                    started.append((request, self.engine.submit(request)))
                if not started:
                    return
                yield started[0]
                started.popleft()
        finally:
            for _, stream in started:
                stream.close()

    def _read(
        self, request: GenerationRequest, stream: TokenStream, *, continues: bool
    ) -> Completion:
        params = request.params
        readers = [self._reader(index, params, continues) for index in range(params.n)]
        num_cached_tokens, prompt_logprobs = 0, None
        for event in stream:
            reader = readers[event.index]
            reader.read(event)
            if reader.finish_reason is not None and event.finish_reason is None:
                stream.close(event.index)
            num_cached_tokens = event.num_cached_tokens
            prompt_logprobs = event.prompt_logprobs or prompt_logprobs
        outputs = tuple(reader.output() for reader in readers)
        return Completion(request.prompt_token_ids, outputs, num_cached_tokens, prompt_logprobs)

    def _stream(
        self, token_ids: tuple[int, ...], params: SamplingParams, *, continues: bool
    ) -> Iterator[str]:
        reader = self._reader(0, params, continues)
        stream = self.engine.submit(self._request(token_ids, params))
        try:
            for event in stream:
                if event.index == 0 and (piece := reader.read(event)):
                    yield piece
                if reader.finish_reason is not None:
                    return
        finally:
            stream.close()

    def _reader(self, index: int, params: SamplingParams, continues: bool) -> _TextReader:
        detokenizer = Detokenizer(self.tokenizer, keep_first_space=continues)
        return _TextReader(index, detokenizer, StopMatcher(params.stop), params)


class _TextReader:
    """One sequence's events to text, cut at the first stop string."""

    def __init__(
        self, index: int, detokenizer: Detokenizer, stop: StopMatcher, params: SamplingParams
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self._index = index
        self._detokenizer = detokenizer
        self._stop = stop
        self._pieces: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] | None = None if params.logprobs is None else []

    def read(self, event: TokenEvent) -> str:
        """The text that is certain now. Raises EngineError when the sequence failed."""
        if event.error is not None:
            raise EngineError(event.error)
        text, is_stopped = "", False
        if event.token_id is not None:
            self._token_ids.append(event.token_id)
            text, is_stopped = self._stop.add(self._detokenizer.add(event.token_id))
            if self._logprobs is not None and event.logprob is not None:
                self._logprobs.append(event.logprob)
        if event.finish_reason is not None and not is_stopped:
            rest, is_stopped = self._stop.add(self._detokenizer.flush())
            text += rest + self._stop.flush()
        self.finish_reason = "stop" if is_stopped else event.finish_reason
        self._pieces.append(text)
        return text

    def output(self) -> CompletionOutput:
        assert self.finish_reason is not None
        logprobs = None if self._logprobs is None else tuple(self._logprobs)
        return CompletionOutput(
            self._index, "".join(self._pieces), tuple(self._token_ids), self.finish_reason, logprobs
        )


_open_llms: WeakSet[LLM] = WeakSet()


def _threads_for(settings: Settings) -> int | None:
    """The threads to set for one more LLM: what the open ones compute on, if there are any."""
    if not _open_llms:
        return settings.threads
    in_use = kernels.num_threads()
    if settings.threads not in (None, in_use):
        raise SettingError(
            f"threads is {settings.threads}, but a model still open in this process computes on "
            f"{in_use}, and all share one pool; close it first, or ask for {in_use}"
        )
    return in_use


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt, text or token ids, becomes a list of one."""
    if isinstance(prompts, str):
        return [prompts]
    if len(prompts) > 0 and all(is_integer(item) for item in prompts):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]
