"""`GET /v1/models` and `GET /v1/models/{id}`: the cards of what this server runs."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from cierzo.server.auth import Caller
from cierzo.server.classifiers import ServedClassifiers
from cierzo.server.error_responses import error_response, json_response
from cierzo.server.query import TEXT
from cierzo.server.schemas.models import ModelCard
from cierzo.server.served_model import ServedModels

LIST_QUERY = {"model": TEXT}


async def list_models(request: Request) -> Response:
    """Every model that the caller may use, classifiers among them, or with `?model=` those of
    that id or alias."""
    caller: Caller = request.state.caller
    wanted = request.query_params.get("model")
    cards = [
        card.model_dump()
        for card in await _cards(request)
        if caller.may_use(card.id) and (wanted is None or wanted in (card.id, *card.aliases))
    ]
    return json_response({"object": "list", "data": cards})


async def retrieve_model(request: Request) -> Response:
    """One model by id or alias; an id may hold slashes, encoded or not."""
    models: ServedModels = request.app.state.models
    model_id: str = request.path_params["model_id"]
    cards = await _cards(request)
    card = next((card for card in cards if model_id in (card.id, *card.aliases)), None)
    caller: Caller = request.state.caller
    caller.check_model(model_id if card is None else card.id)
    if card is None:
        return error_response(404, models.unknown(model_id), type="invalid_model", code="1500")
    return json_response(card.model_dump())


async def _cards(request: Request) -> list[ModelCard]:
    """The served models' cards, then those of the caller's classifiers, which lie on the disk."""
    state = request.app.state
    models: ServedModels = state.models
    classifiers: ServedClassifiers = state.classifiers
    caller: Caller = request.state.caller
    of_classifiers = await asyncio.to_thread(lambda: list(classifiers.cards(caller.workspace_id)))
    return [*(model.card() for model in models), *of_classifiers]
