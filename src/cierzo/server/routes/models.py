"""`GET /v1/models` and `GET /v1/models/{id}`: the cards of what this server runs."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from cierzo.server.auth import Caller
from cierzo.server.error_responses import error_response, json_response
from cierzo.server.served_model import ServedModel, ServedModels


async def list_models(request: Request) -> Response:
    """Every model that the caller may use, or with `?model=` those of that id or alias."""
    caller: Caller = request.state.caller
    models: ServedModels = request.app.state.models
    wanted = request.query_params.get("model")
    cards = [
        model.card().model_dump()
        for model in models
        if caller.may_use(model.id) and (wanted is None or wanted in (model.id, *model.aliases))
    ]
    return json_response({"object": "list", "data": cards})


async def retrieve_model(request: Request) -> Response:
    """One model by id or alias; an id may hold slashes, encoded or not."""
    models: ServedModels = request.app.state.models
    model_id: str = request.path_params["model_id"]
    model: ServedModel | None = models.find(model_id)
    caller: Caller = request.state.caller
    caller.check_model(model_id if model is None else model.id)
    if model is None:
        return error_response(404, models.unknown(model_id), type="invalid_model", code="1500")
    return json_response(model.card().model_dump())
