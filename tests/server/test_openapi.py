"""`/openapi.json` describes what is served, and all its references lead somewhere."""

from __future__ import annotations

import re

import httpx2 as httpx
import pytest

from cierzo.server.route import Route
from cierzo.server.route_table import ROUTES


def test_every_route_is_described(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    served = {(route.method, re.sub(r":path}", "}", route.path)) for route in ROUTES}
    assert described == served


def test_what_asks_for_a_key_says_so(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    operations = [(path, *methods.values()) for path, methods in document["paths"].items()]
    open_paths = {path for path, operation, *_ in operations if "security" not in operation}
    assert open_paths == {"/health", "/v1/files/{file_id}/signed"}
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_every_reference_leads_somewhere(client: httpx.Client) -> None:
    answer = client.get("/openapi.json")
    schemas = answer.json()["components"]["schemas"]
    references = re.findall(r'"\$ref":"#/([^"]+)"', answer.text)
    assert references
    for reference in references:
        assert reference.removeprefix("components/schemas/") in schemas


@pytest.mark.parametrize("route", [r for r in ROUTES if r.body], ids=lambda route: route.path)
def test_the_body_lists_every_field(client: httpx.Client, route: Route) -> None:
    assert route.body is not None
    document = client.get("/openapi.json").json()
    content = document["paths"][route.path][route.method.lower()]["requestBody"]["content"]
    name = content[route.media_type]["schema"]["$ref"].rsplit("/", 1)[1]
    assert set(document["components"]["schemas"][name]["properties"]) == {
        field.alias or name for name, field in route.body.model_fields.items()
    }
