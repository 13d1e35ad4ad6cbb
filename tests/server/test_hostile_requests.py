"""Ids, names, headers and addresses that were made to lead elsewhere: they lead nowhere."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import psutil
import pytest

from cierzo.classifiers.definition import Classifier, ClassifierFolder
from cierzo.classifiers.question import policy_question
from cierzo.server.route_table import ROUTES
from cierzo.store import Database, api_keys
from cierzo.store.tables import DEFAULT_ID
from tests.server.conftest import scripted_model
from tests.server.live import LiveServer, live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_auth import bearer
from tests.server.test_chat import CHAT, body
from tests.server.test_errors import check
from tests.store.temporary import temporary_database

FILES = "/v1/files"
CLIMBING = (
    "..%2f..%2fsecret",
    "..%5c..%5csecret",
    "%2e%2e%2fsecret.json",
    "..%252fsecret",
    "%2fetc%2fpasswd",
    "secret%00.json",
    "%0d%0aSet-Cookie:%20a=b",
    "%ff%fe",
    "%ed%a0%80",
    "a" * 5000,
)
SECRET = "what nobody may read"


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with temporary_database() as database:
        yield database


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[LiveServer]:
    """With a sound classifier's file, and others, beside the folders that are served from."""
    data = tmp_path_factory.mktemp("data")
    planted = ClassifierFolder(data / "elsewhere")
    planted.save(Classifier("secret", "tiny", policy_question(SECRET)))
    (file,) = (data / "elsewhere").rglob("secret.json")
    for name in ("secret", "secret.json"):
        (data / name).write_bytes(file.read_bytes())
    folder = ClassifierFolder(data)
    folder.save(Classifier("shouting", "tiny", policy_question("It shouts.")))
    models = [scripted_model(ScriptedEngine())]
    with live_server(models, database=database, classifiers=folder) as server:
        yield server


@pytest.fixture(scope="module")
def headers(database: Database) -> dict[str, str]:
    return bearer(api_keys.create(database, "ci", DEFAULT_ID, is_admin=True)[1])


@pytest.fixture
def client(server: LiveServer, headers: dict[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=headers) as http:
        yield http


def raw(url: str, request: str) -> bytes:
    """The answer to a request line that no client library has mended."""
    at = urlsplit(url)
    with socket.create_connection((at.hostname, at.port)) as connection:
        connection.sendall(request.encode("latin-1"))
        return connection.makefile("rb").read()


@pytest.mark.parametrize("route", [r for r in ROUTES if "{" in r.path], ids=lambda r: r.path)
def test_ids_that_climb(server: LiveServer, headers: dict[str, str], route: Any) -> None:
    for name in (*CLIMBING, "../../secret", "..", "./secret"):
        path = name.join(re.split(r"{[^}]+}", route.path))
        data = '{"limits": {}}' if route.body else ""
        more = "Content-Type: application/json\r\nContent-Length: 14\r\n" if data else ""
        answer = raw(
            server.url,
            f"{route.method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Authorization: {headers['authorization']}\r\n{more}\r\n{data}",
        )
        status = int(answer.split(b" ", 2)[1])
        head = answer.partition(b"\r\n\r\n")[0].lower()
        assert 400 <= status < 500, answer
        assert SECRET.encode() not in answer and b"set-cookie" not in head


@pytest.mark.parametrize(
    "name", ["../secret", "secret", "/etc/passwd", "..\\secret", "a\0b", "\r\n"]
)
def test_models_that_climb(client: httpx.Client, name: str) -> None:
    for path in ("/v1/moderations", "/v1/classifications", "/v1/embeddings"):
        answer = client.post(path, json={"model": name, "input": "x"})
        check(answer, 400, "invalid_model", "Invalid model")
        assert SECRET not in answer.text
    assert client.post(CHAT, json=body(model=name)).json()["code"] == "1500"
    guardrail = {"moderation_llm_v2": {"model_name": name}}
    assert client.post(CHAT, json=body(guardrails=[guardrail])).status_code == 400


@pytest.mark.parametrize("field", ["filename", "purpose", "name"])
def test_line_breaks_in_a_form(client: httpx.Client, field: str) -> None:
    values = {"filename": "a.txt", "purpose": "ocr", "name": "file", field: "a\r\nSet-Cookie: a=b"}
    form = (
        f'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{values["purpose"]}\r\n'
        f'--b\r\nContent-Disposition: form-data; name="{values["name"]}"; '
        f'filename="{values["filename"]}"\r\n\r\ndata\r\n--b--\r\n'
    )
    kind = {"content-type": "multipart/form-data; boundary=b"}
    answer = client.post(FILES, content=form.encode(), headers=kind)
    assert "set-cookie" not in answer.headers
    # What stands after a break in a part's head is another header of the part, and not read.
    assert answer.status_code in (400, 422) or answer.json()["filename"].isprintable()


def test_a_name_cannot_break_the_download_header(client: httpx.Client) -> None:
    name = 'a"; filename=b.html; é\u2028.txt'.replace("\u2028", "")
    made = client.post(FILES, files={"file": (name, b"<script>")}).json()
    answer = client.get(f"{FILES}/{made['id']}/content")
    shown = answer.headers["content-disposition"]
    assert re.fullmatch(r"attachment; filename\*=UTF-8''[\w.%~-]+", shown)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_compressed_bodies_are_not_unpacked(client: httpx.Client) -> None:
    """A bomb of 60 kB that would be 60 MB: refused by its header, whatever is in it."""
    bomb = gzip.compress(json.dumps(body(metadata={"x": "0" * 60_000_000})).encode())
    before = psutil.Process().memory_info().rss
    for path, kind in ((CHAT, "application/json"), (FILES, "multipart/form-data; boundary=b")):
        for encoding in ("gzip", "deflate", "br", "gzip, gzip"):
            packed = {"content-encoding": encoding, "content-type": kind}
            answer = client.post(path, content=bomb, headers=packed)
            check(answer, 415, "unsupported_media_type", "without Content-Encoding")
    assert psutil.Process().memory_info().rss < before + 30_000_000
    plain = client.post(CHAT, json=body(), headers={"content-encoding": "identity"})
    assert plain.status_code == 200


def test_no_field_makes_the_server_fetch(client: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bait:
        caught = threading.Event()

        def wait_for_a_catch() -> None:
            connection, _ = bait.accept()
            connection.close()
            caught.set()

        threading.Thread(target=wait_for_a_catch, daemon=True).start()
        url = f"http://127.0.0.1:{bait.getsockname()[1]}/latest/meta-data"
        chunks: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": url},
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "document_url", "document_url": url},
            {"type": "file", "file_id": url},
            {"type": "input_audio", "input_audio": url},
            {"type": "reference", "reference_ids": [1]},
        ]
        for chunk in chunks:
            answer = client.post(CHAT, json=body(messages=[{"role": "user", "content": [chunk]}]))
            assert answer.status_code in (400, 422), chunk
        for fields in ({"webhook": url}, {"callback_url": url}, {"metadata": {"url": url}}):
            assert client.post(CHAT, json=body(**fields)).status_code == 200
        job = {"endpoint": CHAT, "input_files": [url]}
        check(client.post("/v1/batch/jobs", json=job), 404, "not_found", "no file")
        hosted = {"type": "web_search", "url": url}
        assert client.post(CHAT, json=body(tools=[hosted])).status_code in (400, 422)
        assert client.post("/v1/embeddings", json={"model": url, "input": url}).status_code == 400
        assert not caught.is_set()
        socket.create_connection(bait.getsockname()).close()  # the bait works
        assert caught.wait(120)


def test_a_link_leads_to_the_host_that_was_asked(client: httpx.Client) -> None:
    """And to no other that a header may name."""
    made = client.post(FILES, files={"file": ("a.txt", b"x")}).json()["id"]
    more = {"x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}
    url = client.get(f"{FILES}/{made}/url", headers=more).json()["url"]
    assert url.startswith(f"{client.base_url}".rstrip("/") + FILES)
    assert Path(urlsplit(url).path).name == "signed"
