"""The wire of `POST /v1/chat/completions`: request fields with their bounds, answer shapes.

Knows types and ranges only. What a value means for a model is `chat_request.py`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from cierzo.server.schemas.common import (
    Items,
    Location,
    RefusedModel,
    StopStrings,
    UsageInfo,
    WireModel,
)

MAX_TOOLS = 128
MAX_CHOICES = 64
MAX_TOP_LOGPROBS = 20


class TextChunk(WireModel):
    type: Literal["text"]
    text: str


class ThinkingChunk(WireModel):
    """Reasoning text of an earlier answer."""

    type: Literal["thinking"]
    thinking: Items[TextChunk]
    signature: str | None = None
    closed: bool | None = True


class OtherChunk(RefusedModel):
    """A chunk of a kind that no model here reads; known so that it is refused by name."""

    type: Literal[
        "image_url",
        "document_url",
        "file",
        "reference",
        "input_audio",
        "resource",
        "resource_link",
        "tool_reference",
    ]


ContentChunk = Annotated[TextChunk | ThinkingChunk | OtherChunk, Field(discriminator="type")]
Content = str | Items[ContentChunk]


class FunctionCall(WireModel):
    name: str
    arguments: str | dict[str, Any] = ""


class ToolCallIn(WireModel):
    id: str = "null"
    type: Literal["function"] = "function"
    index: int | None = 0
    function: FunctionCall


class BaseMessage(WireModel):
    role: str
    content: Content | None = None

    @property
    def text(self) -> str:
        """The text of the content; other chunks are left out."""
        if isinstance(self.content, list):
            return "\n".join(c.text for c in self.content if isinstance(c, TextChunk))
        return self.content or ""


class SystemMessage(BaseMessage):
    """`developer` is OpenAI's name for the same role."""

    role: Literal["system", "developer"]
    content: Content


class UserMessage(BaseMessage):
    role: Literal["user"]


class AssistantMessage(BaseMessage):
    """With `prefix` (last message only) the answer starts with this content."""

    role: Literal["assistant"]
    tool_calls: Items[ToolCallIn] | None = None
    prefix: bool | None = False


class ToolMessage(BaseMessage):
    role: Literal["tool"]
    tool_call_id: str | None = None
    name: str | None = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(WireModel):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    parameters: dict[str, Any] | None = None
    description: str | None = ""
    strict: bool | None = False


class FunctionTool(WireModel):
    type: Literal["function"] = "function"
    function: Function


class HostedTool(RefusedModel):
    """A tool that the hosted platform runs itself; known so that it is refused by name."""

    type: Literal[
        "connector",
        "document_library",
        "image_generation",
        "web_search",
        "web_search_premium",
        "code_interpreter",
    ]


def _tool_type(tool: Any) -> str:
    """`type` may be left out, as the vendor's schema allows."""
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return "function" if kind in (None, "function") else "hosted"


Tool = Annotated[
    Annotated[FunctionTool, Tag("function")] | Annotated[HostedTool, Tag("hosted")],
    Discriminator(_tool_type),
]


class FunctionName(WireModel):
    name: str


class NamedToolChoice(WireModel):
    type: Literal["function"] | None = "function"
    function: FunctionName


ToolChoice = Literal["auto", "none", "any", "required"] | NamedToolChoice


class JsonSchemaFormat(WireModel):
    """`schema` is a JSON Schema; pydantic reserves the name, hence the alias."""

    name: str | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")
    description: str | None = None
    strict: bool | None = False


class ResponseFormat(WireModel):
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _schema_is_there(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError('type "json_schema" needs the field json_schema beside it')
        return self


class Prediction(WireModel):
    type: Literal["content"] = "content"
    content: Content = ""


class ModerationConfig(WireModel):
    """A threshold that is absent or null is the server's own."""

    model_name: str | None = None
    custom_category_thresholds: dict[str, Annotated[float, Field(ge=0.0, le=1.0)] | None] | None = (
        None
    )
    ignore_other_categories: bool | None = False
    action: Literal["none", "block"] | None = None


class GuardrailConfig(WireModel):
    """Moderation of the input, by the categories of either of the vendor's models."""

    block_on_error: bool | None = False
    moderation_llm_v1: ModerationConfig | None = None
    moderation_llm_v2: ModerationConfig | None = None


class OpenAiFields(WireModel):
    """Fields of OpenAI's clients that Mistral's API does not have: refused in strict mode."""

    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    max_completion_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    stream_options: dict[str, Any] | None = None
    user: str | None = None
    store: bool | None = None
    logit_bias: dict[str, Any] | None = None  # refused as a whole


class ChatCompletionRequest(OpenAiFields):
    """The body of `POST /v1/chat/completions`. A null field is an absent one."""

    model: str
    messages: Items[Message] = Field(min_length=1)
    temperature: float | None = Field(default=None, ge=0.0, le=1.5)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    max_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    stream: bool | None = False
    stop: StopStrings | None = None
    random_seed: int | None = Field(default=None, ge=0, lt=2**63)
    metadata: dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    tools: (
        Annotated[
            list[Tool],
            Field(max_length=MAX_TOOLS),
        ]
        | None
    ) = None
    tool_choice: ToolChoice | None = None
    presence_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    frequency_penalty: float | None = Field(default=None, ge=-2.0, le=2.0)
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    prediction: Prediction | None = None
    parallel_tool_calls: bool | None = None
    prompt_mode: Literal["reasoning"] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    guardrails: Items[GuardrailConfig] | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "standard_only", "default"] | None = None
    safe_prompt: bool | None = None
    min_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    repetition_penalty: float | None = Field(default=None, gt=0.0, le=10.0)
    top_k: int | None = Field(default=None, ge=0, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    prompt_logprobs: bool | None = None
    top_prompt_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)

    @model_validator(mode="after")
    def _fields_agree(self) -> ChatCompletionRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.top_prompt_logprobs and not self.prompt_logprobs:
            raise ValueError("top_prompt_logprobs needs prompt_logprobs: true")
        if self.prediction is not None and (self.n or 1) > 1:
            raise ValueError("prediction works for n: 1 only")
        for ours, theirs in (("max_tokens", "max_completion_tokens"), ("random_seed", "seed")):
            values = {getattr(self, ours), getattr(self, theirs)} - {None}
            if len(values) > 1:
                raise ValueError(f"{ours} and {theirs} mean the same and differ; send {ours} only")
        return self

    @property
    def prefix(self) -> str:
        """The text of a last message with `prefix: true`: every answer starts with it."""
        last = self.messages[-1]
        return last.text if isinstance(last, AssistantMessage) and last.prefix else ""

    def extra_fields(self, *, strict: bool) -> Iterator[tuple[Location, Any]]:
        yield from super().extra_fields(strict=strict)
        if strict:
            for name in OpenAiFields.model_fields:
                if name in self.model_fields_set:
                    yield (name,), getattr(self, name)


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]
    token_id: int


class LogprobEntry(TopLogprob):
    top_logprobs: list[TopLogprob] | None = None


class Logprobs(BaseModel):
    content: list[LogprobEntry]


class ToolCallOut(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: dict[Literal["name", "arguments"], str]
    index: int


class AnswerText(BaseModel):
    type: Literal["text"] = "text"
    text: str


class AnswerThinking(BaseModel):
    """`closed` is false while more thinking follows."""

    type: Literal["thinking"] = "thinking"
    thinking: list[AnswerText]
    closed: bool


AnswerContent = str | list[AnswerThinking | AnswerText]


class AnswerMessage(BaseModel):
    """Content is a list only in answers that hold thinking."""

    role: Literal["assistant"] = "assistant"
    content: AnswerContent
    tool_calls: list[ToolCallOut] | None = None
    prefix: bool = False


class Choice(BaseModel):
    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length", "model_length", "tool_calls", "error"]
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None


class ChatCompletionResponse(BaseModel):
    """A whole answer. `created` is unix seconds; `guardrails` is there when some were asked for."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: UsageInfo
    guardrails: list[dict[str, Any]] | None = None


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: AnswerContent | None = None
    tool_calls: list[ToolCallOut] | None = None


class DeltaChoice(BaseModel):
    index: int
    delta: Delta
    finish_reason: Literal["stop", "length", "model_length", "tool_calls", "error"] | None
    logprobs: Logprobs | None = None
    prompt_logprobs: Logprobs | None = None


class ChatCompletionChunk(BaseModel):
    """One event of a stream; `usage` is null in all but the last."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[DeltaChoice]
    usage: UsageInfo | None
    guardrails: list[dict[str, Any]] | None = None
