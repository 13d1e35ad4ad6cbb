"""Some requests of each operation; `make contract` asks more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cierzo.server.route_table import ROUTES
from tests.contract.__main__ import Served, check, modes_of, served

NUM_EXAMPLES = 2


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served() as server:
        yield server


@pytest.mark.parametrize("label", [f"{route.method} {route.open_path}" for route in ROUTES])
def test_an_operation_is_as_described(server: Served, label: str) -> None:
    operation = server.operations[label]
    for mode in modes_of(operation):
        check(server, operation, mode, NUM_EXAMPLES)
