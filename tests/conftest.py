"""Fixtures that every folder of tests may use."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cierzo import hub, kernels
from cierzo.errors import HubOfflineError
from cierzo.settings import load_settings
from tests.store.postgres import postgres_server


def pytest_configure(config: pytest.Config) -> None:
    """CIERZO_ISA holds for tests that call the kernels directly, too (`make test`); nobody's data
    folder is touched."""
    data = tempfile.TemporaryDirectory(prefix="cierzo-data-")
    config.add_cleanup(data.cleanup)
    os.environ["CIERZO_DATA"] = data.name
    isa = load_settings().isa
    if isa is not None:
        kernels.set_isa(isa)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Of a server in which a test may create databases."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def default_model_path() -> Path:
    """The default model, fetched once per machine; skipped only where there is no network."""
    try:
        return hub.pull(hub.DEFAULT_MODEL, home=load_settings().home).path
    except HubOfflineError as error:
        pytest.skip(f"the default model is not here and cannot be fetched: {error}")
