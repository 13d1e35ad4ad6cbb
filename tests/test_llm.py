"""LLM over a tiny random model with a real (byte-level) vocabulary, and over the default one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cierzo import LLM, SamplingParams, kernels
from cierzo.errors import (
    ContextOverflowError,
    EngineError,
    EngineStoppedError,
    ModelNotFoundError,
    PromptError,
    RequestError,
    SettingError,
)
from cierzo.llm import Prompt
from cierzo.settings import load_settings
from tests.tiny_checkpoints import BlockType, tiny_model, write_gguf

GREEDY = SamplingParams(temperature=0.0, max_tokens=24)


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llm") / "tiny.gguf"
    write_gguf(path, tiny_model("llama"), block_type=BlockType.Q8_0)
    return path


@pytest.fixture(scope="module")
def llm(tiny_gguf: Path) -> Iterator[LLM]:
    with LLM(tiny_gguf) as llm:
        yield llm


def test_generate_takes_texts_and_token_ids_in_any_number(llm: LLM) -> None:
    ids = llm.tokenizer.encode("hello")

    def told(prompts: Any) -> list[Any]:
        """All but how much was cached."""
        return [(c.prompt_token_ids, c.outputs) for c in llm.generate(prompts, GREEDY)]

    (one,) = told("hello")
    assert one[0] == tuple(ids)
    assert told(ids) == [one]
    assert told(np.array(ids)) == [one]
    prompts: list[Prompt] = ["hello", ids, "world"]
    assert told(prompts)[:2] == [one, one]
    assert llm.generate([], GREEDY) == []
    several: list[Any] = [[[1.5, 2]], [1.5, 2], [True, 2], np.array([[1.5, 2.0]])]
    for wrong in several:
        with pytest.raises(RequestError, match="must be integers"):
            llm.generate(wrong, GREEDY)
    assert told("hello") == [one]


def test_a_completion_says_all_of_its_request(llm: LLM) -> None:
    params = SamplingParams(seed=1, n=2, max_tokens=5, logprobs=2, prompt_logprobs=1)
    (completion,) = llm.generate("hello", params)
    assert [output.index for output in completion.outputs] == [0, 1]
    for output in completion.outputs:
        assert output.finish_reason == "length" and len(output.token_ids) == 5
        assert output.logprobs is not None
        assert [entry.token_id for entry in output.logprobs] == list(output.token_ids)
        assert output.text == llm.tokenizer.decode(output.token_ids)
    assert completion.prompt_logprobs is not None
    assert len(completion.prompt_logprobs) == len(completion.prompt_token_ids)
    assert completion.text == completion.outputs[0].text


def test_logprobs_agree_with_logits(llm: LLM) -> None:
    (completion,) = llm.generate("hello there", replace(GREEDY, logprobs=0, prompt_logprobs=0))
    output = completion.outputs[0]
    tokens = [*completion.prompt_token_ids, *output.token_ids]
    logits = llm.logits(tokens, len(completion.prompt_token_ids)).astype(np.float64)
    assert logits.shape == (len(tokens), llm.config.vocab_size)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    entries = [*(completion.prompt_logprobs or ()), *(output.logprobs or ())]
    for position, entry in enumerate(entries[1:], start=1):
        assert entry is not None and entry.token_id == tokens[position]
        assert entry.logprob == pytest.approx(expected[position - 1, tokens[position]], abs=1e-4)


def test_a_stop_string_cuts_the_text_and_ends_the_sequence(llm: LLM) -> None:
    (free,) = llm.generate("hello", replace(GREEDY, max_tokens=200))
    stop = free.text[40:43]
    (cut,) = llm.generate("hello", replace(GREEDY, max_tokens=200, stop=(stop,)))
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.outputs[0].finish_reason == "stop"
    assert len(cut.outputs[0].token_ids) < len(free.outputs[0].token_ids)


def test_more_prompts_than_the_queue_holds(tiny_gguf: Path) -> None:
    settings = load_settings({"max_waiting": 2, "max_running": 2})
    with LLM(tiny_gguf, settings=settings) as llm:
        prompts = [[10 + i, 20 + i] for i in range(9)]
        together = llm.generate(prompts, GREEDY)
        assert [c.prompt_token_ids for c in together] == [tuple(p) for p in prompts]
        assert together[5:6] == llm.generate(prompts[5], GREEDY)


def test_chat_renders_the_template_and_stops_at_the_models_own_end(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    completion = llm.chat(messages, GREEDY)
    assert "".join(llm.tokenizer.token_bytes(t).decode() for t in completion.prompt_token_ids) == (
        "user\nhi\nassistant\n"  # control tokens have no bytes
    )
    assert "".join(llm.stream_chat(messages, GREEDY)) == completion.text
    with pytest.raises(PromptError):
        llm.chat([], GREEDY)


def test_streamed_equals_whole(llm: LLM) -> None:
    pieces = list(llm.stream("hello", GREEDY))
    assert len(pieces) > 1
    assert "".join(pieces) == llm.generate("hello", GREEDY)[0].text


def test_a_stream_left_early_costs_nothing_more(llm: LLM) -> None:
    stream = llm.stream("hello", SamplingParams(temperature=0.0))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 120
    while llm.engine.stats().num_running and time.monotonic() < deadline:
        time.sleep(0.001)
    assert llm.engine.stats().num_running == 0


def test_embeddings_have_length_1_and_do_not_depend_on_their_company(llm: LLM) -> None:
    together = llm.embed(["north wind", "south wind", "x" * 300])
    assert together.shape == (3, llm.config.dim)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    assert (llm.embed("south wind") == together[1]).all()
    assert np.abs(together[0] - together[1]).max() > 1e-3
    assert llm.embed([]).shape == (0, llm.config.dim)


@pytest.mark.parametrize(
    ("token_ids", "error", "message"),
    [
        ([], RequestError, "at least one token"),
        ([0, 320], RequestError, r"in 0 … 319; got 0 … 320"),
        ([1.5, 2], RequestError, r"token ids must be integers; got 1.5"),
        ([1] * 513, ContextOverflowError, "513 tokens are over the context of 512"),
    ],
)
def test_logits_refuse_what_cannot_be_computed(
    llm: LLM, token_ids: list[int], error: type[RequestError], message: str
) -> None:
    with pytest.raises(error, match=message):
        llm.logits(token_ids)


def test_logits_take_any_sequence_of_integers(llm: LLM) -> None:
    expected = llm.logits([1, 2, 3])
    for token_ids in (np.array([1, 2, 3]), (1, 2, 3), range(1, 4)):
        assert (llm.logits(token_ids) == expected).all()


def test_a_failed_step_is_raised(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm.engine._core.runner, "run", lambda batch: 1 // 0)
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        llm.generate(["a", "b"], GREEDY)
    monkeypatch.undo()
    assert llm.generate("a", GREEDY)


def test_what_is_given_wins_over_settings(tiny_gguf: Path) -> None:
    with LLM(tiny_gguf, max_model_len=64) as llm:
        assert llm.max_model_len == 64
    settings = load_settings({"max_model_len": 100})
    with LLM(tiny_gguf, settings=settings) as llm:
        assert llm.max_model_len == 100
    with LLM(tiny_gguf, settings=settings, max_model_len=50, dtype="int4") as llm:
        assert llm.max_model_len == 50
    with LLM(tiny_gguf, settings=settings) as llm, LLM(tiny_gguf, kv_cache_dtype="int8") as small:
        assert small.kv_cache_nbytes / small.config.kv_bytes_per_token("int8") == 8 * 512
        assert np.abs(small.logits(range(1, 90)) - llm.logits(range(1, 90))).max() > 0.0
    unknown: Any = "fp8"
    with pytest.raises(SettingError, match="kv-cache-dtype is 'fp8': Input should be 'bf16' or"):
        LLM(tiny_gguf, kv_cache_dtype=unknown)
    with pytest.raises(SettingError, match="over the 512 tokens"):
        LLM(tiny_gguf, max_model_len=513)
    with pytest.raises(ModelNotFoundError):
        LLM("no-such-model")


def test_threads_are_the_processes(tiny_gguf: Path, llm: LLM) -> None:
    in_use = kernels.num_threads()
    with LLM(tiny_gguf, threads=in_use), LLM(tiny_gguf):
        assert kernels.num_threads() == in_use
    kernels.set_num_threads(3)
    try:
        with pytest.raises(SettingError, match="threads is 1, but a model still open .* on 3"):
            LLM(tiny_gguf, threads=1)
    finally:
        kernels.set_num_threads(in_use)
    with pytest.raises(SettingError, match="--threads is 0"):
        LLM(tiny_gguf, threads=0, settings=load_settings())


def test_a_closed_llm_says_so(tiny_gguf: Path) -> None:
    with LLM(tiny_gguf) as llm:
        pass
    llm.close()
    with pytest.raises(EngineStoppedError):
        llm.generate("hello")


def test_the_default_model_speaks_english(default_model_path: Path) -> None:
    with LLM(default_model_path, max_model_len=512) as llm:
        prompts = ["The capital of France is", "The opposite of hot is"]
        texts = [c.text for c in llm.generate(prompts, replace(GREEDY, max_tokens=3))]
        assert [text.split(".")[0] for text in texts] == [" Paris", " cold"]
        question = [{"role": "user", "content": "How many days are there in a week?"}]
        assert llm.chat(question, GREEDY).text.strip()
