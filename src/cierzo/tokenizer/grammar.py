"""Holds a model to a JSON schema, a grammar, or the spelling of its tool calls.

Grammars are llguidance's; this module writes them and hands the engine token masks (its
`LogitsConstraint`, met by shape alone). Knows no sampling and no HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from cierzo.errors import GrammarError, ToolCallError
from cierzo.tokenizer.messages import Tool
from cierzo.tokenizer.tokenizer import Tokenizer
from cierzo.tokenizer.tool_format import ToolFormat
from cierzo.tokenizer.tool_grammar import FREE_TEXT, ToolGrammar, held_schema, json_rule

REHEARSED_TOKENS = 4
"""Steps tried before a grammar is handed out: some compile and fail at their first masks, when
the request is already running."""

_QUOTED = re.compile(r"\d+ \|")


class Constraint:
    """One sequence's place in a grammar: which tokens may come next.

    `grammar` is its text (Lark), for whoever follows it elsewhere; None once a token was taken.
    """

    def __init__(self, matcher: LLMatcher, num_words: int, grammar: str | None = None) -> None:
        self.grammar = grammar
        self._matcher = matcher
        self._num_words = num_words

    def allowed_tokens(self) -> NDArray[np.uint32]:
        """Bit mask over the vocabulary, uint32 [ceil(vocab_size / 32)]; bit set = allowed."""
        known = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint32)[: self._num_words]
        self._check()
        mask = np.zeros(self._num_words, dtype=np.uint32)  # logits beyond the vocabulary: never
        mask[: len(known)] = known
        return mask

    def accept(self, token_id: int) -> None:
        """Advance by a token. Raises GrammarError for one that the grammar does not allow."""
        self.grammar = None
        self._matcher.consume_token(token_id)
        self._check()

    def is_finished(self) -> bool:
        """True when only the end of the sequence may follow."""
        return bool(self._matcher.is_stopped())

    def fork(self) -> Constraint:
        """An independent copy in the same state."""
        return Constraint(self._matcher.deep_copy(), self._num_words, self.grammar)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"The grammar stopped: {_problem(self._matcher)}.")


class GrammarCompiler:
    """Compiles grammars for one tokenizer, whose vocabulary is indexed once, at first use.

    `vocab_size` is the width of the model's logits, where that is not the tokenizer's.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size or tokenizer.vocab_size

    def for_chat(
        self,
        *,
        response_format: Mapping[str, Any] | None = None,
        tools: Sequence[Tool] = (),
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel_tool_calls: bool = True,
        tool_format: ToolFormat = ToolFormat.NONE,
    ) -> Constraint | None:
        """What a chat request's own fields (API shapes) ask of the answer; None: anything goes.

        Raises GrammarError for a schema that does not compile, ToolCallError for a
        `tool_choice` that the tools do not bear.
        """
        schema = response_schema(response_format)
        grammar = ToolGrammar(self._tokenizer, tool_format, parallel=parallel_tool_calls)
        chosen = _chosen_tools(tools, tool_choice)
        must_call = chosen is not None and tool_choice != "auto"
        if schema is not None and must_call:
            raise GrammarError(
                "response_format cannot be combined with a forced tool call. "
                "Set tool_choice to auto or none, or leave response_format out.",
                param="response_format",
            )
        if must_call and chosen is not None:
            return self._compile(f"start: calls\n{grammar.calls(chosen)}", "tools")
        if schema is not None:
            answer = json_rule("answer", schema, self._tokenizer.adds_space_prefix)
            if not chosen:
                return self._compile(f"start: answer\n{answer}", "response_format")
            both = f"start: answer | calls\n{answer}{grammar.calls(chosen)}"
            return self._compile(both, "response_format")
        if chosen and (not parallel_tool_calls or any(tool.strict for tool in chosen)):
            return self._compile(grammar.text_or_calls(chosen), "tools")
        if tool_choice == "none" and tools:
            return self._compile(f"start: FREE\n{FREE_TEXT}", "tool_choice")
        return None

    def _compile(self, grammar: str, param: str) -> Constraint:
        matcher = LLMatcher(self._indexed, LLMatcher.grammar_from_lark(grammar), log_level=0)
        if matcher.is_error():
            raise GrammarError(
                f"{param} cannot be compiled to a grammar: {_problem(matcher)}. "
                "Simplify the schema or remove the keyword it names.",
                param=param,
            )
        constraint = Constraint(matcher, -(-self._vocab_size // 32), grammar)
        try:
            _rehearse(constraint.fork(), self._tokenizer.encode("{")[-1])
        except GrammarError as error:
            raise GrammarError(
                f"{param} compiles to a grammar that cannot be followed. {error} "
                "Make the schema smaller, and let no $ref lead straight back to itself.",
                param=param,
            ) from None
        return constraint

    @cached_property
    def _indexed(self) -> LLTokenizer:
        return LLTokenizer(
            TokenizerWrapper(_Vocabulary(self._tokenizer)),
            eos_token=sorted(self._tokenizer.eos_ids),
        )


class _Vocabulary:
    """The face of a tokenizer that llguidance asks for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = range(tokenizer.vocab_size)
        if not tokenizer.eos_ids:
            raise GrammarError(
                "This model's vocabulary names no token that ends an answer, so no grammar can "
                "tell it to stop. Leave response_format and forced tool calls out."
            )
        self.eos_token_id = min(tokenizer.eos_ids)
        self.bos_token_id = tokenizer.bos_id
        self.special_token_ids = [i for i in ids if tokenizer.is_control(i)]
        self.tokens = [
            f"<control_{i}>".encode() if tokenizer.is_control(i) else tokenizer.token_bytes(i)
            for i in ids
        ]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        """Ids of text in the middle of an answer: without the made-up space at the start."""
        if not self._tokenizer.adds_space_prefix:
            return self._tokenizer.encode(text)
        # A character that merges with nothing stands between the made-up space and the text.
        guard = self._tokenizer.encode("☺")
        return self._tokenizer.encode("☺" + text)[len(guard) :]


def response_schema(response_format: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The schema that a `response_format` (API shape) asks for; None for plain text.

    Raises GrammarError for a type that does not exist or a schema that is missing.
    """
    if response_format is None or response_format.get("type", "text") == "text":
        return None
    kind = response_format["type"]
    if kind == "json_object":
        return held_schema({"type": "object"}, strict=True)
    if kind != "json_schema":
        raise GrammarError(
            f"response_format.type must be text, json_object or json_schema, not {kind!r}.",
            param="response_format",
        )
    wanted = response_format.get("json_schema")
    schema = wanted.get("schema") if isinstance(wanted, Mapping) else None
    if not isinstance(wanted, Mapping) or not isinstance(schema, Mapping):
        raise GrammarError(
            "response_format.json_schema.schema must be a JSON schema object.",
            param="response_format",
        )
    return held_schema(schema, strict=bool(wanted.get("strict")))


def _rehearse(constraint: Constraint, opening: int) -> None:
    """Follow a grammar for a few tokens, into an object where there may be one: its properties
    are what grows too large. Raises GrammarError when the grammar fails on the way."""
    for _ in range(REHEARSED_TOKENS):
        if constraint.is_finished():
            return
        bits = np.unpackbits(constraint.allowed_tokens().view(np.uint8), bitorder="little")
        if not bits.any():
            raise GrammarError("It allows no token.")
        constraint.accept(opening if bits[opening] else int(bits.argmax()))


def _problem(matcher: LLMatcher) -> str:
    """llguidance's message without its state and without the lines that quote our grammar."""
    message, _, _ = matcher.get_error().partition("<state>")
    lines = [line.strip() for line in message.splitlines()]
    told = [line for line in lines if line.strip("^ ") and not _QUOTED.match(line)]
    return " ".join(told).rpartition("JSON schema: ")[2][:200]


def _chosen_tools(
    tools: Sequence[Tool], tool_choice: str | Mapping[str, Any]
) -> Sequence[Tool] | None:
    """The tools that `tool_choice` leaves open; None when there are none to call."""
    if isinstance(tool_choice, Mapping):
        function = tool_choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else None
        named = [tool for tool in tools if tool.name == name]
        if not named:
            available = ", ".join(tool.name for tool in tools) or "none"
            raise ToolCallError(
                f"tool_choice names {name!r:.100}; the tools given are: {available}."
            )
        return named
    if tool_choice not in ("auto", "none", "any", "required"):
        raise ToolCallError(
            f"tool_choice must be auto, none, any, required or a function, not {tool_choice!r}."
        )
    if tool_choice == "none":
        return None
    if not tools and tool_choice != "auto":
        raise ToolCallError(f"tool_choice is {tool_choice} but no tools are given. Add some.")
    return tools or None
