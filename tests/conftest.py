"""Fixtures that every folder of tests may use."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx2._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings

from cierzo import hub, kernels
from cierzo.errors import HubOfflineError
from cierzo.settings import load_settings
from tests.store.postgres import postgres_server

# What a test says must not depend on the machine's speed nor on luck: the only clock is pytest's
# own limit, which ends what hangs, and generated examples are the same in every run.
DEFAULT_TIMEOUT_CONFIG.__init__(None)  # type: ignore[misc]
settings.register_profile(
    "certain",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("certain")


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
