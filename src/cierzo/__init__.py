"""Cierzo: Mistral-family models on your own machine.

    from cierzo import LLM, SamplingParams

Names are loaded when first used, so that `import cierzo` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cierzo.engine.request import SamplingParams
    from cierzo.llm import LLM

    __version__: str

__all__ = ["LLM", "SamplingParams", "__version__"]

_HOMES = {"LLM": "cierzo.llm", "SamplingParams": "cierzo.engine.request"}


def __getattr__(name: str) -> object:
    if name == "__version__":
        return version("cierzo")
    if name not in _HOMES:
        raise AttributeError(f"module 'cierzo' has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
