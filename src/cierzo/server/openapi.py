"""`/openapi.json`: FastAPI's description of the routes, with the bodies that endpoints read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from cierzo.server.route import EVENTS, Route

_OTHER: dict[str, dict[str, Any]] = {
    EVENTS: {
        "description": "Each event: a chat.completion.chunk as JSON; the last is [DONE].",
        "type": "object",
        "properties": {"data": {"type": "string"}},
        "required": ["data"],
    }
}


def describe(app: FastAPI, routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI document."""
    document = get_openapi(title="Cierzo", version=version("cierzo"), routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for route in routes:
        operation = document["paths"][route.open_path][route.method.lower()]
        if route.scope != "open":
            operation["security"] = [{"key": []}]
        if parameters := list(_parameters(route)):
            operation["parameters"] = parameters
        if route.body is not None:
            content = {route.media_type: {"schema": _reference(route.body, schemas)}}
            operation["requestBody"] = {"required": True, "content": content}
        answers = operation["responses"]["200"].setdefault("content", {})
        if route.answer is None:
            answers.clear()
        answers |= {kind: {"schema": _OTHER.get(kind, {"type": "string"})} for kind in route.also}
    return document


def _parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)", route.path):
        # What is empty or climbs is another path by the time it comes.
        identifier = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}
        yield {"name": name, "in": "path", "required": True, "schema": identifier}
    for name, schema in route.query.items():
        yield {"name": name, "in": "query", "schema": schema}


def _reference(body: type[BaseModel], schemas: dict[str, Any]) -> dict[str, str]:
    """A reference to a body's schema, which is put among `schemas`."""
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[body.__name__] = schema
    return {"$ref": f"#/components/schemas/{body.__name__}"}
