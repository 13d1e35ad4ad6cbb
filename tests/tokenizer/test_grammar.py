"""Sampling under a mask gives what the grammar says, whatever the sampler prefers."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest

from cierzo.errors import GrammarError, ToolCallError
from cierzo.tokenizer.detokenizer import Detokenizer
from cierzo.tokenizer.grammar import Constraint, GrammarCompiler
from cierzo.tokenizer.loading import load_tokenizer
from cierzo.tokenizer.messages import ToolCall, parse_tools
from cierzo.tokenizer.tokenizer import Tokenizer
from cierzo.tokenizer.tool_calls import ToolCallParser
from cierzo.tokenizer.tool_format import ToolFormat
from cierzo.tokenizer.tool_grammar import MAX_CALLS
from tests.tokenizer.vocabularies import smollm2_fields, write_gguf_vocab

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"$ref": "#/$defs/days"},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
    "$defs": {"days": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}},
}
TOOLS = parse_tools(
    [
        {"type": "function", "function": {"name": name, "parameters": SCHEMA, "strict": True}}
        for name in ("get_weather", "get-wind")
    ]
)
FORMATS = {
    "smollm2": ToolFormat.TAGGED,
    "spm-v2": ToolFormat.JSON_LIST,
    "spm-v3": ToolFormat.JSON_LIST,
    "tekken-v7": ToolFormat.JSON_LIST,
    "tekken-v11": ToolFormat.NAME_ID_ARGS,
    "tekken-v13": ToolFormat.NAME_ARGS,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
NAMED: dict[str, Any] = {"type": "function", "function": {"name": "get-wind"}}


@pytest.fixture(scope="module")
def tokenizers(smollm2: Tokenizer, vendor_tokenizers: dict[str, Tokenizer]) -> dict[str, Tokenizer]:
    return {"smollm2": smollm2, **vendor_tokenizers}


def _allowed(constraint: Constraint) -> list[int]:
    bits = np.unpackbits(constraint.allowed_tokens().view(np.uint8), bitorder="little")
    return [int(token_id) for token_id in np.flatnonzero(bits)]


def _sample(
    tokenizer: Tokenizer, constraint: Constraint, seed: int, *, max_tokens: int = 600
) -> list[int]:
    """A random walk that stops when it may, and is glad to close what it opened."""
    chance = random.Random(seed)
    token_ids: list[int] = []
    while not constraint.is_finished() and len(token_ids) < max_tokens:
        allowed = _allowed(constraint)
        if tokenizer.eos_ids.intersection(allowed):
            break
        closing = [i for i in allowed if tokenizer.token_bytes(i).strip() in (b'"', b"]", b"}")]
        token_id = chance.choice(closing if closing and chance.random() < 0.3 else allowed)
        constraint.accept(token_id)
        token_ids.append(token_id)
    return token_ids


def _read(
    tokenizer: Tokenizer, tool_format: ToolFormat, token_ids: list[int]
) -> tuple[str, list[ToolCall]]:
    parser, detokenizer = ToolCallParser(tokenizer, tool_format), Detokenizer(tokenizer)
    parts = [parser.add(token_id, detokenizer.add(token_id)) for token_id in token_ids]
    parts.append(parser.flush())
    return "".join(text for text, _ in parts), [call for _, calls in parts for call in calls]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("choice", ["any", "required", NAMED])
def test_forced_calls_are_calls_of_the_tools(
    tokenizers: dict[str, Tokenizer], name: str, choice: str | Mapping[str, Any], seed: int
) -> None:
    tokenizer, tool_format = tokenizers[name], FORMATS[name]
    constraint = GrammarCompiler(tokenizer).for_chat(
        tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, tool_format=tool_format
    )
    assert constraint is not None
    content, calls = _read(tokenizer, tool_format, _sample(tokenizer, constraint, seed))
    assert content == ""
    (call,) = calls
    assert call.name == "get-wind" if choice is NAMED else call.name in ("get_weather", "get-wind")
    jsonschema.validate(json.loads(call.arguments), SCHEMA)


ONE_CALL = {
    ToolFormat.TAGGED: '<tool_call>\n{"name": "get-wind", "arguments": %s}\n</tool_call>',
    ToolFormat.JSON_LIST: '[{"name": "get-wind", "arguments": %s}',
    ToolFormat.NAME_ID_ARGS: ("get-wind", "[CALL_ID]", "abcdefghi", "[ARGS]", "%s"),
    ToolFormat.NAME_ARGS: ("get-wind", "[ARGS]", "%s"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_another_call_may_follow_only_where_calls_are_parallel(
    tokenizers: dict[str, Tokenizer], name: str
) -> None:
    tokenizer, tool_format = tokenizers[name], FORMATS[name]
    controls = tokenizer.control_tokens
    written = ONE_CALL[tool_format]
    parts = (written,) if isinstance(written, str) else written
    parts = parts if tool_format is ToolFormat.TAGGED else ("[TOOL_CALLS]", *parts)
    arguments = '{"city": "Z", "days": [], "unit": "C"}'
    pieces = [controls.get(part, part.replace("%s", arguments)) for part in parts]
    token_ids = [i for i in tokenizer.encode_pieces(pieces) if i != tokenizer.bos_id]
    follow: dict[bool, set[bytes]] = {}
    for parallel in (True, False):
        constraint = _constraint(
            GrammarCompiler(tokenizer).for_chat(
                tools=TOOLS,
                tool_choice="any",
                parallel_tool_calls=parallel,
                tool_format=tool_format,
            )
        )
        for token_id in token_ids:
            constraint.accept(token_id)
        ends = tokenizer.eos_ids
        follow[parallel] = {tokenizer.token_bytes(i)[:1] for i in _allowed(constraint)}
        may_end = tool_format is not ToolFormat.JSON_LIST
        assert (ends <= set(_allowed(constraint))) == may_end
        assert constraint.is_finished() == (may_end and not parallel)
    if tool_format is ToolFormat.JSON_LIST:
        assert follow == {True: {b"]", b","}, False: {b"]"}}


@pytest.mark.parametrize("name", FORMATS)
def test_calls_come_to_an_end(tokenizers: dict[str, Tokenizer], name: str) -> None:
    """A sampler that never ends an answer by itself is ended by the grammar."""
    tokenizer, tool_format = tokenizers[name], FORMATS[name]
    tools = parse_tools([{"type": "function", "function": {"name": "f", "parameters": NOTHING}}])
    constraint = _constraint(
        GrammarCompiler(tokenizer).for_chat(tools=tools, tool_choice="any", tool_format=tool_format)
    )
    token_ids: list[int] = []
    while not constraint.is_finished():
        allowed = [i for i in _allowed(constraint) if i not in tokenizer.eos_ids]
        longest = max(
            allowed,
            key=lambda i: (
                b"]" not in tokenizer.token_bytes(i),
                not tokenizer.token_bytes(i).isspace(),
                len(tokenizer.token_bytes(i)),
            ),
        )
        constraint.accept(longest)
        token_ids.append(longest)
        assert len(token_ids) < 3000
    content, calls = _read(tokenizer, tool_format, token_ids)
    assert (content, len(calls)) == ("", MAX_CALLS)


def _held(
    compiler: GrammarCompiler, schema: Mapping[str, Any], *, strict: bool = True
) -> Constraint:
    wanted = {"type": "json_schema", "json_schema": {"schema": schema, "strict": strict}}
    return _constraint(compiler.for_chat(response_format=wanted))


def _constraint(constraint: Constraint | None) -> Constraint:
    assert constraint is not None
    return constraint


@pytest.mark.parametrize("name", ["smollm2", "spm-v3", "tekken-v13"])
@pytest.mark.parametrize("strict", [True, False])
def test_json_schema_gives_json_that_fits(
    tokenizers: dict[str, Tokenizer], name: str, strict: bool
) -> None:
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "w", "schema": SCHEMA, "strict": strict},
    }
    compiler = GrammarCompiler(tokenizers[name])
    for seed in range(5):
        constraint = _constraint(compiler.for_chat(response_format=wanted))
        token_ids = _sample(tokenizers[name], constraint, seed)
        jsonschema.validate(json.loads(tokenizers[name].decode(token_ids)), SCHEMA)
        assert constraint.is_finished()
        assert set(_allowed(constraint)) == tokenizers[name].eos_ids


def test_json_object_gives_an_object(smollm2: Tokenizer) -> None:
    for seed in range(5):
        constraint = _constraint(
            GrammarCompiler(smollm2).for_chat(response_format={"type": "json_object"})
        )
        text = smollm2.decode(_sample(smollm2, constraint, seed, max_tokens=3000))
        assert isinstance(json.loads(text), dict)


def test_white_space_has_an_end(smollm2: Tokenizer) -> None:
    """A sampler in love with white space still gets to the end of the object."""
    constraint = _held(GrammarCompiler(smollm2), SCHEMA)
    num_tokens = 0
    while not constraint.is_finished():
        allowed = _allowed(constraint)
        blank = [i for i in allowed if smollm2.token_bytes(i).isspace()]
        plain = [i for i in allowed if smollm2.token_bytes(i) in (b'"', b"]", b"}", b"a", b"1")]
        constraint.accept((blank or plain or allowed)[0])
        num_tokens += 1
        assert num_tokens < 1000


def test_auto_lets_text_through_and_holds_strict_calls(tokenizers: dict[str, Tokenizer]) -> None:
    for name, tool_format in FORMATS.items():
        tokenizer = tokenizers[name]
        constraint = _constraint(
            GrammarCompiler(tokenizer).for_chat(tools=TOOLS, tool_format=tool_format)
        )
        for token_id in tokenizer.encode("It is {windy} <b>today</b>."):
            constraint.accept(token_id)
        assert tokenizer.eos_ids <= set(_allowed(constraint))
        assert not constraint.is_finished()


def test_auto_without_strict_tools_needs_no_grammar(smollm2: Tokenizer) -> None:
    tools = parse_tools([{"type": "function", "function": {"name": "f"}}])
    compiler = GrammarCompiler(smollm2)
    assert compiler.for_chat(tools=tools, tool_format=ToolFormat.TAGGED) is None
    assert compiler.for_chat() is None
    assert compiler.for_chat(response_format={"type": "text"}) is None


def test_none_allows_text_and_no_calls(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["tekken-v13"]
    constraint = _constraint(
        GrammarCompiler(tokenizer).for_chat(
            tools=TOOLS, tool_choice="none", tool_format=ToolFormat.NAME_ARGS
        )
    )
    allowed = set(_allowed(constraint))
    assert tokenizer.control_tokens["[TOOL_CALLS]"] not in allowed
    assert len(allowed) > 1000


def test_json_and_tools_is_either(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["tekken-v11"]
    compiler = GrammarCompiler(tokenizer)
    constraint = _constraint(
        compiler.for_chat(
            response_format={"type": "json_object"},
            tools=TOOLS,
            tool_format=ToolFormat.NAME_ID_ARGS,
        )
    )
    starts = {tokenizer.token_bytes(i)[:1] for i in _allowed(constraint)}
    assert starts == {b"{", b""}
    with pytest.raises(GrammarError, match="cannot be combined"):
        compiler.for_chat(
            response_format={"type": "json_object"},
            tools=TOOLS,
            tool_choice="any",
            tool_format=ToolFormat.NAME_ID_ARGS,
        )


def test_fork_goes_its_own_way(smollm2: Tokenizer) -> None:
    constraint = _held(GrammarCompiler(smollm2), {"enum": ["ab", "cd"]})
    constraint.accept(smollm2.encode('"')[0])
    fork = constraint.fork()
    constraint.accept(smollm2.encode("a")[0])
    fork.accept(smollm2.encode("c")[0])
    assert {smollm2.token_bytes(i)[:1] for i in _allowed(constraint)} == {b"b"}
    assert {smollm2.token_bytes(i)[:1] for i in _allowed(fork)} == {b"d"}


def test_mask_has_the_width_of_the_logits(smollm2: Tokenizer) -> None:
    for vocab_size in (smollm2.vocab_size, smollm2.vocab_size + 100, 40000):
        constraint = _held(GrammarCompiler(smollm2, vocab_size), {"type": "string"})
        mask = constraint.allowed_tokens()
        assert mask.dtype == np.uint32 and len(mask) == -(-vocab_size // 32)
        assert max(_allowed(constraint)) < vocab_size


def test_token_outside_the_grammar_is_refused(smollm2: Tokenizer) -> None:
    constraint = _held(GrammarCompiler(smollm2), {"const": "a"})
    with pytest.raises(GrammarError):
        constraint.accept(smollm2.encode("b")[0])


def test_vocabulary_without_an_end_is_refused(tmp_path: Path) -> None:
    fields = smollm2_fields()
    fields |= {"eos_token_id": None, "token_types": [1] * len(fields["tokens"])}
    tokenizer = load_tokenizer(write_gguf_vocab(tmp_path, fields))
    with pytest.raises(GrammarError, match="ends an answer"):
        GrammarCompiler(tokenizer).for_chat(response_format={"type": "json_object"})


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "strin"}, "strin"),
        ({"properties": {"a": {"not": {"const": 1}}}}, "not"),
        ({"$ref": "#/nowhere"}, "/nowhere"),
        ({"type": "string", "pattern": "("}, "unclosed"),
    ],
)
def test_bad_schema_is_refused_by_its_fault(
    smollm2: Tokenizer, schema: dict[str, Any], named: str
) -> None:
    with pytest.raises(GrammarError, match=named) as error:
        _held(GrammarCompiler(smollm2), schema)
    assert error.value.param == "response_format"


def test_keywords_that_cannot_be_held_pass_when_not_strict(smollm2: Tokenizer) -> None:
    schema = {"type": "object", "properties": {"a": {"not": {"const": 1}}}}
    _held(GrammarCompiler(smollm2), schema, strict=False)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"properties": {f"p{i}": {"type": "string", "pattern": f"a{i}"} for i in range(2000)}},
    ],
    ids=["itself", "loop", "many patterns"],
)
def test_schema_that_fails_at_its_first_masks_is_refused(
    smollm2: Tokenizer, schema: dict[str, Any]
) -> None:
    with pytest.raises(GrammarError, match="cannot be followed") as error:
        _held(GrammarCompiler(smollm2), schema)
    assert error.value.param == "response_format"
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {}},
        {"type": "json_schema", "json_schema": {"schema": []}},
    ],
)
def test_bad_response_format_is_refused(
    smollm2: Tokenizer, response_format: dict[str, Any]
) -> None:
    with pytest.raises(GrammarError, match="response_format"):
        GrammarCompiler(smollm2).for_chat(response_format=response_format)


@pytest.mark.parametrize(
    ("tools", "choice", "said"),
    [
        (TOOLS, {"type": "function", "function": {"name": "g"}}, "'g'.*get_weather"),
        (TOOLS, {}, "None"),
        (TOOLS, "sometimes", "'sometimes'"),
        ([], "any", "no tools"),
    ],
)
def test_bad_tool_choice_is_refused(smollm2: Tokenizer, tools: Any, choice: Any, said: str) -> None:
    with pytest.raises(ToolCallError, match=said):
        GrammarCompiler(smollm2).for_chat(
            tools=tools, tool_choice=choice, tool_format=ToolFormat.TAGGED
        )
