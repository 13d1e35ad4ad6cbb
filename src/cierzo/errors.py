"""Every error Cierzo raises on purpose, in one tree.

    CierzoError
    ├── SettingError              a flag, variable or argument that cannot be used
    ├── ModelError                about a model as a whole
    │   ├── ModelNotFoundError        no such name, path, or entry
    │   ├── ModelFileError            a file that is truncated, damaged, or lies about its contents
    │   ├── UnsupportedModelError     a sound file of a kind we do not run
    │   └── ModelTooLargeError        weights or KV cache that do not fit this machine
    ├── HubError                  fetching a model
    │   ├── HubOfflineError           no network, or offline mode
    │   ├── ChecksumError             the bytes that arrived are not the bytes promised
    │   └── DiskFullError             no room to finish a write
    ├── PromptError               messages or tools that cannot become a prompt
    │   ├── MessageOrderError         roles in an order the model was never trained on
    │   ├── ToolCallError             a malformed tool, tool call or tool result
    │   └── TemplateError             a chat template that fails or tries to escape its sandbox
    ├── RequestError              a generation request that cannot run
    │   ├── ContextOverflowError      prompt (+ max_tokens) over the context
    │   ├── GrammarError              a schema or grammar that cannot be compiled
    │   └── UnsupportedRequestError   a field whose feature is not built or not in this model
    ├── CallerError               who asks, and how much
    │   ├── UnauthorizedError         no key, or none that is good
    │   ├── ForbiddenError            a good key that may not do this
    │   ├── BudgetError               the month's money is spent
    │   └── RateLimitError            too much in a minute, a month, or at once; `retry_after_s`
    ├── GuardrailError            input that a guardrail of the request blocks
    ├── EngineError               the running engine
    │   ├── QueueFullError            too many requests waiting; carries `retry_after_s`
    │   │   └── UpstreamBusyError         it is a server elsewhere that takes no more now
    │   ├── EngineStoppedError        submitted after, or cut off by, shutdown
    │   └── UpstreamError             a server elsewhere that failed, or answered nonsense
    │       └── UpstreamAwayError         it cannot be reached, or is given a rest; `retry_after_s`
    └── StoreError                what must survive: keys, prices, the ledger, files, jobs
        ├── StoreNotFoundError        no workspace, key, … by that name or id
        ├── StoreFullError            no room on the disk for one more file
        └── StoreUnavailableError     a database that is away, locked or full

A message names the thing, the rule, the offending value and the remedy.
This module imports nothing of ours, so every layer may raise from it.
"""

from __future__ import annotations

from typing import Any


class CierzoError(Exception):
    """Base of everything Cierzo raises on purpose."""


class SettingError(CierzoError):
    """A flag, variable or argument that cannot be used."""


class ModelError(CierzoError):
    """Something about a model as a whole."""


class ModelNotFoundError(ModelError):
    """No model by that name, path or id."""


class ModelFileError(ModelError):
    """A model file that is truncated, damaged, or lies about its contents."""


class UnsupportedModelError(ModelError):
    """A sound file of a kind that Cierzo does not run."""


class ModelTooLargeError(ModelError):
    """Weights or KV cache that do not fit this machine."""


class HubError(CierzoError):
    """A model could not be fetched."""


class HubOfflineError(HubError):
    """The hub cannot be reached, or offline mode forbids asking it."""


class ChecksumError(HubError):
    """The bytes that arrived are not the bytes that were promised."""


class DiskFullError(HubError):
    """No room on the disk to finish a write; what was there before is untouched."""


class PromptError(CierzoError):
    """Messages or tools that cannot become a prompt for this model."""


class MessageOrderError(PromptError):
    """Roles in an order that the model's format does not have."""


class ToolCallError(PromptError):
    """A malformed tool, tool call or tool result."""


class TemplateError(PromptError):
    """A chat template that fails, or that tries to leave its sandbox."""


class RequestError(CierzoError):
    """A generation request that cannot run. `param` names the offending field."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextOverflowError(RequestError):
    """Prompt, or prompt plus `max_tokens`, over the model's context."""


class GrammarError(RequestError):
    """A JSON schema or grammar that cannot be compiled."""


class UnsupportedRequestError(RequestError):
    """A field whose feature is not built, or that this model does not have."""


class CallerError(CierzoError):
    """A request refused for who asks or how much, whatever is asked."""


class UnauthorizedError(CallerError):
    """No API key, or none that is good."""


class ForbiddenError(CallerError):
    """A good key that may not do this."""


class BudgetError(CallerError):
    """The budget of the key or its workspace is spent until the month ends."""


class RateLimitError(CallerError):
    """Over a limit. `retry_after_s` says when it may work, None: not at all as it is."""

    def __init__(self, message: str, *, retry_after_s: int | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GuardrailError(CierzoError):
    """A guardrail blocked the input. `results` says which, by kind of moderation."""

    def __init__(self, results: dict[str, dict[str, Any]]) -> None:
        super().__init__("Content blocked by guardrail")
        self.results = results


class EngineError(CierzoError):
    """The running engine could not do its work."""


class QueueFullError(EngineError):
    """Too many requests are waiting. `retry_after_s` says when to come back (seconds)."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpstreamBusyError(QueueFullError):
    """A server elsewhere takes no more requests now."""


class EngineStoppedError(EngineError):
    """The engine is shut down, or was while the request ran."""


class UpstreamError(EngineError):
    """A server elsewhere failed, or answered what makes no sense."""


class UpstreamAwayError(UpstreamError):
    """A server elsewhere cannot be reached, or is given a rest. `retry_after_s`: seconds."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreError(CierzoError):
    """Something about what must survive."""


class StoreNotFoundError(StoreError):
    """Nothing of that name or id in the store, or nothing of the caller's."""


class StoreFullError(StoreError):
    """No room on the disk for one more file; nothing of it was kept."""


class StoreUnavailableError(StoreError):
    """The database is away, locked or full, and stayed so."""
