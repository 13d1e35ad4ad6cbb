"""`/openapi.json` describes what is served, and all its references lead somewhere."""

from __future__ import annotations

import re

import httpx2 as httpx

from cierzo.server.app import ROUTES
from cierzo.server.schemas.chat import ChatCompletionRequest


def test_every_route_is_described(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    served = {(route.method, re.sub(r":path}", "}", route.path)) for route in ROUTES}
    assert described == served


def test_every_reference_leads_somewhere(client: httpx.Client) -> None:
    answer = client.get("/openapi.json")
    schemas = answer.json()["components"]["schemas"]
    references = re.findall(r'"\$ref":"#/([^"]+)"', answer.text)
    assert references
    for reference in references:
        assert reference.removeprefix("components/schemas/") in schemas


def test_the_body_lists_every_field(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    content = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]
    name = content["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    assert set(document["components"]["schemas"][name]["properties"]) == set(
        ChatCompletionRequest.model_fields
    )
