"""`/v1/files` over a socket: the six calls, and what hostile or unlucky clients send."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import openai
import pytest
from mistralai.client import Mistral, errors

from cierzo.errors import StoreUnavailableError
from cierzo.ids import now_ms
from cierzo.server.config import ServerConfig
from cierzo.store import Database, api_keys, workspaces
from cierzo.store import files as store_files
from cierzo.store.files import FileStore
from cierzo.store.tables import DEFAULT_ID
from tests.server.conftest import scripted_model
from tests.server.live import LiveServer, live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_auth import bearer
from tests.server.test_errors import check
from tests.store.temporary import temporary_database
from tests.waiting import eventually

FILES = "/v1/files"
MAX_NBYTES = 2 * 1024 * 1024


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with temporary_database() as database:
        yield database


@pytest.fixture(scope="module")
def store(database: Database, tmp_path_factory: pytest.TempPathFactory) -> FileStore:
    return FileStore(database, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def server(database: Database, store: FileStore) -> Iterator[LiveServer]:
    models = [scripted_model(ScriptedEngine())]
    config = ServerConfig(max_file_bytes=MAX_NBYTES)
    with live_server(models, config, database, file_store=store) as server:
        yield server


@pytest.fixture
def client(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as http:
        yield http


def upload(client: httpx.Client, name: str, data: bytes, **fields: str) -> httpx.Response:
    return client.post(FILES, files={"file": (name, data)}, data=fields)


def uploaded(client: httpx.Client, name: str, data: bytes, **fields: str) -> dict[str, Any]:
    answer = upload(client, name, data, **fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def content(client: httpx.Client, file_id: str) -> httpx.Response:
    return client.get(f"{FILES}/{file_id}/content")


def is_swept(store: FileStore) -> bool:
    return not list(store.transit.iterdir())


def test_mistralai_uploads_lists_reads_and_deletes(server: LiveServer, store: FileStore) -> None:
    data = b'{"a": 1}\n{"a": 2}'
    with Mistral(api_key="none", server_url=server.url) as client:
        made = client.files.upload(
            file={"file_name": "años.jsonl", "content": data}, purpose="batch", expiry=2
        )
        assert (made.filename, made.size_bytes, made.num_lines) == ("años.jsonl", 17, 2)
        assert (made.purpose, made.sample_type, made.source) == ("batch", "batch_request", "upload")
        assert made.mimetype == "application/jsonl"
        found = client.files.retrieve(file_id=str(made.id))
        assert found.deleted is False and found.created_at == made.created_at
        listed = client.files.list(purpose="batch", search="años", sample_type=["batch_request"])
        assert [file.id for file in listed.data] == [made.id] and listed.total == 1
        assert client.files.download(file_id=str(made.id)).read() == data
        url = client.files.get_signed_url(file_id=str(made.id), expiry=1).url
        assert httpx.get(url).content == data
        gone = client.files.delete(file_id=str(made.id))
        assert gone.deleted is True and gone.id == made.id
        for call in (client.files.retrieve, client.files.download, client.files.delete):
            with pytest.raises(errors.SDKError) as refusal:
                call(file_id=str(made.id))
            assert refusal.value.status_code == 404
    assert httpx.get(url).status_code == 404
    assert not (store.folder / str(made.id)).exists() and is_swept(store)


def test_openai_uploads_and_reads(server: LiveServer) -> None:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        made = client.files.create(file=("notes.txt", b"some notes"), purpose="user_data")
        assert (made.status, made.bytes, made.filename) == ("processed", 10, "notes.txt")
        assert client.files.content(made.id).read() == b"some notes"
        more = [client.files.create(file=("a.txt", b"a"), purpose="user_data").id for _ in range(4)]
        assert [file.id for file in client.files.list(limit=2)][:5] == [*more[::-1], made.id]
        assert client.files.delete(made.id).deleted


def test_pages_and_filters(client: httpx.Client) -> None:
    made = [uploaded(client, f"page{n}.pdf", b"x" * n, purpose="ocr")["id"] for n in range(5)]
    uploaded(client, "page.csv", b"1,2", purpose="other")
    query: dict[str, Any] = {"purpose": "ocr", "search": "PAGE", "page_size": 2}
    pages = [client.get(FILES, params={**query, "page": n}).json() for n in range(4)]
    assert [file["id"] for page in pages for file in page["data"]] == made[::-1]
    assert {page["total"] for page in pages} == {5}
    for asked, names in (
        ({"mimetypes": ["text/csv", "text/html"]}, ["page.csv"]),
        ({"search": "page%"}, []),
        ({"source": ["mistral"]}, []),
        ({"sample_type": ["other"]}, ["page.csv"]),
    ):
        page = client.get(FILES, params={"search": "page", **asked}).json()
        assert [file["filename"] for file in page["data"]] == names
    assert client.get(FILES, params={"include_total": "false"}).json()["total"] is None
    check(
        client.get(FILES, params={"page": "-1"}),
        400,
        "invalid_request_error",
        "page is a whole number",
    )
    check(client.get(FILES, params={"page_size": "0"}), 400, "invalid_request_error", "page_size")


def test_an_empty_file_is_a_file(client: httpx.Client) -> None:
    made = uploaded(client, "empty.jsonl", b"")
    assert (made["bytes"], made["num_lines"], made["purpose"]) == (0, 0, "fine-tune")
    assert content(client, made["id"]).content == b""


def test_megabytes_arrive_whole(client: httpx.Client) -> None:
    data = b"".join(b"%07d\r\n--\n" % n for n in range(MAX_NBYTES // 12))
    made = uploaded(client, "big.bin", data)
    answer = content(client, made["id"])
    assert answer.content == data and answer.headers["content-length"] == str(len(data))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ana\\a.pdf", "a.pdf"),
        ("/abs/olute.pdf", "olute.pdf"),
        ("…ñ 'quote;s'.pdf", "…ñ 'quote;s'.pdf"),
    ],
)
def test_names_are_only_names(
    client: httpx.Client, store: FileStore, given: str, kept: str
) -> None:
    made = uploaded(client, given, b"data")
    assert made["filename"] == kept
    assert (store.folder / made["id"]).read_bytes() == b"data"
    disposition = content(client, made["id"]).headers["content-disposition"]
    assert disposition.isascii() and disposition.startswith("attachment; filename*=UTF-8''")
    assert not set(disposition.removeprefix("attachment; ")) & set(' \r\n";/\\')


def raw(filename: bytes) -> bytes:
    head = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + filename + b'"\r\n\r\n'
    )
    return head + b"data\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (raw(b".."), "printable"),
        (raw(b""), "printable"),
        (raw(b"a\x00b"), "printable"),
        (raw(b"a\tb"), "printable"),
        (raw(b"a" * 256), "255"),
        (raw(b"a").replace(b"--b--", b""), "ends before"),
        (raw(b"a").replace(b'; filename="a"', b""), "no filename"),
        (raw(b"a").replace(b'"file"', b'"other"'), "no file"),
        (raw(b"a").replace(b"--b--\r\n", raw(b"b")), "two files"),
        (b"--b\r\n" * 20 + b"--b--", "no multipart form"),
        (b"", "ends before"),
        (b"".join(b"--b\r\nA: b\r\n\r\n\r\n" for _ in range(20)), "more than 16 parts"),
        (b"no form at all", "no multipart form"),
        (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + b"a" * 2000, "1024"),
    ],
)
def test_broken_forms_leave_nothing(
    client: httpx.Client, store: FileStore, body: bytes, fault: str
) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    check(client.post(FILES, content=body, headers=headers), 400, "invalid_request_error", fault)
    assert is_swept(store)


def test_what_is_no_form_or_breaks_a_rule(client: httpx.Client, store: FileStore) -> None:
    check(client.post(FILES, json={}), 400, "invalid_request_error", "multipart/form-data")
    check(upload(client, "a.txt", b"", purpose="fine-tune"), 400, "invalid_request_error", "jsonl")
    for fields in ({"purpose": "A b"}, {"expiry": "0"}, {"expiry": "soon"}, {"visibility": "user"}):
        answer = upload(client, "a.jsonl", b"", **fields)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"][-1] == next(iter(fields))
    assert is_swept(store)


def test_too_large(client: httpx.Client, store: FileStore) -> None:
    """By what is declared before anything is read, by what comes, by the file alone."""
    check(
        upload(client, "a.bin", b"a" * (MAX_NBYTES + 100_000)),
        413,
        "request_too_large",
        str(MAX_NBYTES),
    )
    check(
        upload(client, "a.bin", b"a" * (MAX_NBYTES + 1)), 413, "request_too_large", str(MAX_NBYTES)
    )
    body = raw(b"a").replace(b"\r\n\r\ndata", b"\r\n\r\n" + b"a" * (MAX_NBYTES + 100_000))
    headers = {"content-type": "multipart/form-data; boundary=b"}
    pieces = (body[at : at + 65536] for at in range(0, len(body), 65536))
    check(
        client.post(FILES, content=pieces, headers=headers),
        413,
        "request_too_large",
        str(MAX_NBYTES),
    )
    assert is_swept(store)


def test_a_client_that_leaves_leaves_nothing(server: LiveServer, store: FileStore) -> None:
    def half() -> Iterator[bytes]:
        yield raw(b"a")[:80] + b"a" * 100_000
        assert eventually(lambda: not is_swept(store))
        raise ConnectionError

    headers = {"content-type": "multipart/form-data; boundary=b"}
    with httpx.Client(base_url=server.url) as client, pytest.raises(ConnectionError):
        client.post(FILES, content=half(), headers=headers)
    assert eventually(lambda: is_swept(store))


def test_a_full_disk(
    client: httpx.Client, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads end before the database would have no room either."""
    usage = SimpleNamespace(free=store_files.RESERVED_NBYTES + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check(upload(client, "a.bin", b"a" * 2000), 507, "insufficient_storage", "no room")
    assert is_swept(store)
    assert uploaded(client, "a.bin", b"a" * 500)["bytes"] == 500


def test_a_database_that_is_away(
    client: httpx.Client, database: Database, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the row was written is not known then; the next start finds out."""
    before = client.get(FILES).json()["total"]

    def away(work: Any) -> Any:
        raise StoreUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", away)
        check(upload(client, "a.bin", b"a"), 503, "service_unavailable", "away")
    assert client.get(FILES).json()["total"] == before
    FileStore(database, store.folder.parent)
    assert is_swept(store)


def test_links_are_for_one_file_and_some_time(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (uploaded(client, name, name.encode())["id"] for name in ("one", "other"))
    url = client.get(f"{FILES}/{one}/url", params={"expiry": 1}).json()["url"]
    assert httpx.get(url).content == b"one"
    assert httpx.head(url).headers["content-length"] == "3"
    for wrong in (
        url.replace(one, other),
        url.replace("signature=", "signature=0"),
        url.replace("expires=1", "expires=2"),
        url.split("?")[0],
    ):
        assert httpx.get(wrong).status_code == 404
    late_s = time.time() + 3601
    monkeypatch.setattr("cierzo.server.routes.files.time.time", lambda: late_s)
    assert httpx.get(url).status_code == 404
    check(
        client.get(f"{FILES}/{one}/url", params={"expiry": 99999}),
        400,
        "invalid_request_error",
        "expiry",
    )


def test_ids_are_only_ids(client: httpx.Client) -> None:
    for file_id in ("..%2f..%2fcierzo.db", "a" * 36, "%00", "x'; DROP TABLE files; --"):
        for path in (f"{FILES}/{file_id}", f"{FILES}/{file_id}/content", f"{FILES}/{file_id}/url"):
            assert client.get(path).status_code == 404
        assert client.delete(f"{FILES}/{file_id}").status_code == 404


def test_expired_files_are_gone(
    client: httpx.Client, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = uploaded(client, "short.bin", b"a", expiry="1")
    late_ms = now_ms() + 3_600_001
    monkeypatch.setattr(store_files, "now_ms", lambda: late_ms)
    assert client.get(f"{FILES}/{made['id']}").status_code == 404
    uploaded(client, "next.bin", b"a")
    assert not (store.folder / made["id"]).exists()


def test_files_are_their_workspaces_alone(store: FileStore) -> None:
    with temporary_database() as database:
        team = workspaces.create(database, "team").id
        keys = [api_keys.create(database, "key", of)[1] for of in (DEFAULT_ID, team)]
        _, chatting = api_keys.create(database, "chat", DEFAULT_ID, endpoints=["chat"])
        with live_server([scripted_model(ScriptedEngine())], database=database) as server:
            one, other, narrow = (
                httpx.Client(base_url=server.url, headers=bearer(key)) for key in (*keys, chatting)
            )
            with one, other, narrow:
                made = uploaded(one, "mine.txt", b"mine")["id"]
                assert one.get(f"{FILES}/{made}").status_code == 200
                assert other.get(FILES).json() == {
                    "object": "list",
                    "data": [],
                    "total": 0,
                    "has_more": False,
                }
                for path in ("", "/content", "/url"):
                    answer = other.get(f"{FILES}/{made}{path}")
                    absent = other.get(f"{FILES}/{made[:-1]}0{path}")
                    assert answer.status_code == absent.status_code == 404
                assert other.delete(f"{FILES}/{made}").status_code == 404
                check(narrow.get(FILES), 403, "forbidden", "may not use files")
                assert content(one, made).content == b"mine"
