"""A server whose model lives on a second server, both on real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from cierzo.ids import now_ms
from cierzo.server.schemas.models import Capabilities
from cierzo.server.upstream.client import Patience, UpstreamClient
from cierzo.server.upstream.fields import Kind
from cierzo.server.upstream.relay_model import RelayModel
from cierzo.store import Database, api_keys, pricing
from cierzo.store.pricing import Price
from cierzo.store.tables import DEFAULT_ID
from tests.server.conftest import scripted_classifiers, scripted_model
from tests.server.live import LiveServer, live_server
from tests.server.scripted import ScriptedEngine
from tests.store.temporary import temporary_database

PATIENCE = Patience(first_pause_s=0.001, max_pause_s=1.5)


def relay(
    url: str,
    key: str | None = None,
    *,
    kind: Kind = "mistral",
    name: str = "far",
    there: str = "tiny",
    patience: Patience = PATIENCE,
    **can: bool,
) -> RelayModel:
    """A model of a server elsewhere, called `there` by it."""
    able = {"completion_chat": True, "function_calling": True, "completion_fim": True, **can}
    return RelayModel(
        id=name,
        created=1_700_000_000,
        max_context_length=None,
        default_temperature=None,
        capabilities=Capabilities(**able),
        upstream="there",
        client=UpstreamClient("there", url, key, patience),
        kind=kind,
        upstream_model=there,
    )


@pytest.fixture(scope="module")
def far_engine() -> ScriptedEngine:
    """The upstream's."""
    return ScriptedEngine()


@pytest.fixture(scope="module")
def far(
    far_engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LiveServer, str]]:
    """The upstream, and a key for it."""
    folder = scripted_classifiers(tmp_path_factory.mktemp("far"))
    with temporary_database() as database:
        _, key = api_keys.create(database, "gateway", DEFAULT_ID)
        models = [scripted_model(far_engine)]
        with live_server(models, database=database, classifiers=folder) as server:
            yield server, key


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    """Of the server in front."""
    with temporary_database() as database:
        pricing.set_price(database, "far", Price(1_000_000, 2_000_000), now_ms())
        yield database


@pytest.fixture(scope="module")
def near(
    far: tuple[LiveServer, str], database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """The server in front: a model of its own, and those of the upstream."""
    server, key = far
    models = [
        scripted_model(ScriptedEngine(), "own"),
        relay(server.url, key),
        relay(server.url, key, name="guard", there="mistral-moderation-2411", moderation=True),
        relay(server.url, key, name="topics", there="topic", classification=True),
    ]
    folder = scripted_classifiers(Path(tmp_path_factory.mktemp("near")))
    with live_server(models, database=database, classifiers=folder) as live:
        yield live


@pytest.fixture
def engine(far_engine: ScriptedEngine) -> ScriptedEngine:
    """The upstream's engine, as new for this test."""
    far_engine.reset()
    return far_engine


@pytest.fixture
def client(near: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=near.url, timeout=20) as http:
        yield http
