"""`/openapi.json`: FastAPI's description of the routes, with the bodies that endpoints read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel


def describe(
    app: FastAPI,
    bodies: Mapping[tuple[str, str], tuple[type[BaseModel], str]],
    keyed_paths: Iterable[str],
) -> dict[str, Any]:
    """The OpenAPI document. `bodies` gives the body's schema and media type of a path and method,
    `keyed_paths` are those that ask for a key."""
    document = get_openapi(title="Cierzo", version=version("cierzo"), routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path in keyed_paths:
        for operation in document["paths"][path].values():
            operation["security"] = [{"key": []}]
    for (path, method), (body, media_type) in bodies.items():
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[body.__name__] = schema
        reference = {"$ref": f"#/components/schemas/{body.__name__}"}
        document["paths"][path][method]["requestBody"] = {
            "required": True,
            "content": {media_type: {"schema": reference}},
        }
    return document
