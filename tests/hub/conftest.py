"""A local hub for every test of this folder."""

from collections.abc import Iterator

import pytest

from tests.hub.local_hub import LocalHub, running_hub


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with running_hub() as hub:
        yield hub
