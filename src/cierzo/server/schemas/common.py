"""What every schema shares: nullable fields, extra fields that are noticed, error bodies.

Extra fields are kept aside, not forbidden, so that one set of schemas serves both
modes: `lenient` names them in a response header, `strict` answers 422.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Location = tuple[str | int, ...]

Item = TypeVar("Item")
Items = Annotated[list[Item], Field(fail_fast=True)]
"""A list of any length, of which the first faulty item is reported: 600,000 reports would hold
the interpreter, and every other stream, for seconds."""


MAX_STOP_STRINGS = 16
StopStrings = (
    Annotated[str, Field(min_length=1)]
    | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MAX_STOP_STRINGS)]
)


class WireModel(BaseModel):
    """Base of every request object."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    def extra_fields(self, *, strict: bool) -> Iterator[tuple[Location, Any]]:
        """Fields that the API does not have, as (location, value).

        In `strict` mode also those of OpenAI's that a schema knows beyond it.
        """
        yield from extra_fields(self)


class RefusedModel(WireModel):
    """An object known by its type only, so that it is refused by that, not by its fields."""


def extra_fields(value: object, location: Location = ()) -> Iterator[tuple[Location, Any]]:
    """Every field below `value` that its schema does not know, as (location, value)."""
    if isinstance(value, WireModel) and not isinstance(value, RefusedModel):
        for name, extra in (value.model_extra or {}).items():
            yield (*location, name), extra
        for name in value.model_fields_set & type(value).model_fields.keys():
            yield from extra_fields(getattr(value, name), (*location, name))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from extra_fields(item, (*location, position))


def known_fields(value: Any) -> Any:
    """`value` as JSON has it: what was sent and is not null, without the fields that no schema
    knows. Of an object known by its type only, all."""
    if isinstance(value, RefusedModel):
        return value.model_dump(mode="json")
    if isinstance(value, WireModel):
        fields = type(value).model_fields
        sent = {name: getattr(value, name) for name in fields if name in value.model_fields_set}
        return {
            fields[name].alias or name: known_fields(part)
            for name, part in sent.items()
            if part is not None
        }
    return [known_fields(item) for item in value] if isinstance(value, list) else value


class UsageInfo(BaseModel):
    """Token counts; the prompt counts once however large `n` is."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]


class ErrorBody(BaseModel):
    """The one shape of every error answer, in the keys of the live service."""

    object: Literal["error"] = "error"
    message: str | dict[str, Any]
    type: str
    param: str | None = None
    code: str | None = None
    raw_status_code: int
    detail: str | list[dict[str, Any]] | None = None


class GuardrailRefusal(BaseModel):
    """The answer to a request that a guardrail blocked."""

    error: dict[str, Any]
    guardrails: dict[str, Any]
