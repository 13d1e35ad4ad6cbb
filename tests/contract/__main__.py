"""The OpenAPI document against the server that it describes.

    python -m tests.contract [--examples 300] [--seed 0]

Each operation is asked with generated requests, sound ones and broken ones. Whatever comes, the
answer has a status, a media type and a body that the document knows, and is never a 5xx.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2 as httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cierzo.ids import now_ms
from cierzo.store import Database, api_keys, transcripts
from cierzo.store.tables import DEFAULT_ID
from tests.server.conftest import scripted_classifiers
from tests.server.test_auth import bearer
from tests.server.tiny_server import tekken, tiny_server
from tests.store.temporary import temporary_database

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
Operation = APIOperation[Any, Any, Any, Any]
AnyCase = Case[Any]

MAX_TOKENS = 3
MODELS = ("tiny", "topic", "shouting", "mistral-moderation-2603")


@dataclass(frozen=True)
class Served:
    """A server, a key that may do all, and ids of what is there, by the parameter's name."""

    url: str
    headers: dict[str, str]
    known: dict[str, str]

    @cached_property
    def operations(self) -> dict[str, Operation]:
        document = httpx.get(self.url + "/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=self.url)
        found = (one.ok() for one in schema.get_all_operations() if isinstance(one, Ok))
        return {operation.label: operation for operation in found}


@contextmanager
def served() -> Iterator[Served]:
    """The real engine with a stand-in model; classifiers, files, jobs and accounts."""
    with TemporaryDirectory() as folder, temporary_database() as database:
        _, spelling = api_keys.create(database, "ci", DEFAULT_ID, is_admin=True)
        other, _ = api_keys.create(database, "other", DEFAULT_ID)
        classifiers = scripted_classifiers(Path(folder))
        tokenizer = tekken(Path(folder), "v13")
        with tiny_server(tokenizer, database=database, classifiers=classifiers) as (server, _):
            with httpx.Client(base_url=server.url, headers=bearer(spelling)) as client:
                known = {"model_id": "tiny", "key_id": other.id, **_made(client)}
            known["request_id"] = _kept_transcript(database)
            yield Served(server.url, bearer(spelling), known)


def _made(client: httpx.Client) -> dict[str, str]:
    file = client.post("/v1/files", files={"file": ("a.jsonl", b"{}")}).json()["id"]
    requests = [{"body": {"model": "tiny", "input": "a"}}]
    job = client.post(
        "/v1/batch/jobs", json={"endpoint": "/v1/embeddings", "requests": requests}
    ).json()["id"]
    workspace = client.post("/v1/admin/workspaces", json={"name": "team"}).json()["id"]
    firm = client.post("/v1/admin/organisations", json={"name": "firm"}).json()["id"]
    return {"file_id": file, "job_id": job, "workspace_id": workspace, "organisation_id": firm}


def _kept_transcript(database: Database) -> str:
    day_ms = 24 * 3600 * 1000
    kept = transcripts.Transcript("req-1", DEFAULT_ID, now_ms(), now_ms() + day_ms, b"{}", b"{}")
    transcripts.keep(database, kept)
    return kept.request_id


def modes_of(operation: Operation) -> list[GenerationMode]:
    """Where nothing is asked for, nothing can be asked wrong."""
    takes_nothing = not (operation.body or operation.query or operation.path_parameters)
    return [GenerationMode.POSITIVE] if takes_nothing else list(GenerationMode)


def check(
    served: Served, operation: Operation, mode: GenerationMode, examples: int, number: int = 0
) -> None:
    """Ask `operation` that often. Raises what schemathesis found, with the request."""
    strategy = operation.as_strategy(generation_mode=mode)

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=False,  # by the seed
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy, places=st.booleans(), model=st.sampled_from(MODELS))
    def ask(case: AnyCase, places: bool, model: str) -> None:
        if places:
            _put_in_place(case, served.known, model)
        case.call_and_validate(headers=served.headers, checks=CHECKS)

    ask()


def _put_in_place(case: AnyCase, known: dict[str, str], model: str) -> None:
    """What a client would know: a model's name, ids; and short answers."""
    for name in case.path_parameters or ():
        case.path_parameters[name] = known[name]
    body: Any = case.body
    if isinstance(body, dict) and "model" in body:
        body["model"] = model
        if "messages" in body or "prompt" in body:
            body |= {"model": "tiny", "max_tokens": MAX_TOKENS}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.contract", description=__doc__)
    parser.add_argument("--examples", type=int, default=300, help="of each operation and kind")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other requests")
    options = parser.parse_args()
    num_failed = 0
    with served() as server:
        for operation in server.operations.values():
            for mode in modes_of(operation):
                try:
                    check(server, operation, mode, options.examples, options.seed)
                except (Exception, BaseExceptionGroup) as error:
                    num_failed += 1
                    story = "".join(traceback.format_exception(error))
                    print(f"{operation.label}, {mode.value}: {story}", file=sys.stderr)
                else:
                    print(f"{operation.label}, {mode.value}: ok", flush=True)
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
