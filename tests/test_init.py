from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import cierzo


def test_the_public_names_are_these() -> None:
    assert cierzo.__all__ == ["LLM", "SamplingParams", "__version__"]
    assert cierzo.__version__ == version("cierzo")
    assert cierzo.SamplingParams().temperature == 1.0
    assert cierzo.LLM.__module__ == "cierzo.llm"


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Llm'"):
        cierzo.Llm  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, cierzo; print('numpy' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
