"""`GET /v1/models` and one model, by id, alias, and ids that hold slashes."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2 as httpx
import pytest

from cierzo.errors import SettingError
from cierzo.server.schemas.models import Capabilities, ModelCard, ModelList
from cierzo.server.served_model import ServedModels
from tests.server.conftest import CONTEXT, scripted_model
from tests.server.live import live_server
from tests.server.scripted import ScriptedEngine

DOCS = Path(__file__).parents[2] / "docs" / "api" / "models.md"


def test_list(client: httpx.Client) -> None:
    answer = client.get("/v1/models").json()
    ModelList.model_validate(answer, strict=True)
    card, *others = answer["data"]
    assert (card["id"], card["type"], card["object"]) == ("tiny", "base", "model")
    assert card["aliases"] == ["tiny-latest"]
    assert card["max_context_length"] == CONTEXT
    assert card["created"] == 1_700_000_000
    assert card["capabilities"]["completion_chat"] is True
    assert card["capabilities"]["vision"] is False
    can = {
        other["id"]: [name for name, has in other["capabilities"].items() if has]
        for other in others
    }
    assert can == {
        "shouting": ["classification", "moderation"],
        "topic": ["classification"],
        "mistral-moderation-2603": ["moderation"],
        "mistral-moderation-2411": ["moderation"],
    }


def test_list_filtered(client: httpx.Client) -> None:
    assert len(client.get("/v1/models", params={"model": "tiny-latest"}).json()["data"]) == 1
    assert client.get("/v1/models", params={"model": "other"}).json()["data"] == []


def test_retrieve_by_id_and_alias(client: httpx.Client) -> None:
    for name in ("tiny", "tiny-latest"):
        card = client.get(f"/v1/models/{name}").json()
        ModelCard.model_validate(card, strict=True)
        assert card["id"] == "tiny"


def test_unknown_model_is_404(client: httpx.Client) -> None:
    answer = client.get("/v1/models/tyny")
    assert answer.status_code == 404
    assert answer.json()["type"] == "invalid_model"
    assert "did you mean tiny?" in answer.json()["message"]


@pytest.mark.parametrize("name", ["owner/model", "ft:owner/a b:x"])
def test_ids_with_slashes(name: str) -> None:
    with live_server([scripted_model(ScriptedEngine(), name)]) as server:
        for path in (name, name.replace("/", "%2F")):
            answer = httpx.get(f"{server.url}/v1/models/{path}")
            assert answer.json()["id"] == name


def test_two_models_of_one_name_are_refused() -> None:
    engine = ScriptedEngine()
    with pytest.raises(SettingError, match="two models are called 'tiny-latest'"):
        ServedModels([scripted_model(engine), scripted_model(engine, "tiny-latest")])


def test_docs_name_every_field() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", DOCS.read_text().split("# Health")[0], re.MULTILINE)
    assert rows == list(ModelCard.model_fields)
    assert all(f"`{name}`" in DOCS.read_text() for name in Capabilities.model_fields)
