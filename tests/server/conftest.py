"""Fixtures: a scripted engine behind a real socket, and the two clients people use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from cierzo.classifiers.definition import Classifier, ClassifierFolder
from cierzo.classifiers.question import policy_question, topic_question
from cierzo.jobs.worker import run_jobs
from cierzo.server.schemas.models import Capabilities
from cierzo.server.token_model import TokenModel
from tests.server.live import LiveServer, live_server
from tests.server.scripted import ByteTextModel, ScriptedEngine

CONTEXT = 512


def scripted_model(engine: ScriptedEngine, name: str = "tiny") -> TokenModel:
    return TokenModel(
        id=name,
        engine=engine,
        text=ByteTextModel(),
        created=1_700_000_000,
        max_context_length=CONTEXT,
        embedding_dim=16,
        aliases=(f"{name}-latest",),
        capabilities=Capabilities(completion_chat=True, function_calling=True, completion_fim=True),
    )


def scripted_classifiers(data: Path) -> ClassifierFolder:
    """A classifier of labels, a policy, and one whose model is not served."""
    folder = ClassifierFolder(data)
    folder.save(Classifier("topic", "tiny", topic_question(["business", "sport"])))
    folder.save(Classifier("shouting", "tiny", policy_question("It shouts.")))
    folder.save(Classifier("foreign", "absent", topic_question(["a", "b"])))
    return folder


@pytest.fixture(scope="module")
def shared_engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture(scope="module")
def shared_server(
    shared_engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    folder = scripted_classifiers(tmp_path_factory.mktemp("data"))
    models = [scripted_model(shared_engine)]
    with live_server(models, classifiers=folder, background=run_jobs) as server:
        yield server


@pytest.fixture
def engine(shared_engine: ScriptedEngine) -> ScriptedEngine:
    """The server's engine, as new for this test."""
    shared_engine.reset()
    return shared_engine


@pytest.fixture
def client(shared_server: LiveServer, engine: ScriptedEngine) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared_server.url) as http:
        yield http
