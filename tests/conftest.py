"""Fixtures that every folder of tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from cierzo import hub
from cierzo.errors import HubOfflineError


@pytest.fixture(scope="session")
def default_model_path() -> Path:
    """The default model, fetched once per machine; skipped only where there is no network."""
    try:
        return hub.pull(hub.DEFAULT_MODEL).path
    except HubOfflineError as error:
        pytest.skip(f"the default model is not here and cannot be fetched: {error}")
