"""`cierzo upstream …` against a second Cierzo on a socket, and `serve` with what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from cierzo.cli.store import open_store
from cierzo.cli.upstream import key_of
from cierzo.errors import SettingError, StoreError
from cierzo.server.upstream.following import FollowedUpstreams
from cierzo.store import api_keys, upstreams
from cierzo.store.tables import DEFAULT_ID
from cierzo.store.upstreams import UpstreamModel
from tests.cli.conftest import Cli
from tests.server.conftest import scripted_model
from tests.server.live import LiveServer, live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_chat import CHAT, body
from tests.server.upstream.hostile import hostile_server, refusal
from tests.store.temporary import temporary_database
from tests.waiting import eventually


@pytest.fixture(scope="module")
def far() -> Iterator[tuple[LiveServer, str]]:
    """The upstream and its key."""
    with temporary_database() as database:
        _, key = api_keys.create(database, "gateway", DEFAULT_ID)
        models = [scripted_model(ScriptedEngine(), name) for name in ("tiny", "big")]
        with live_server(models, database=database) as server:
            yield server, key


def test_an_upstream_from_its_adding_to_its_end(
    far: tuple[LiveServer, str], cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, key = far
    add = f"upstream add far --url {server.url}/v1/ --key-env FAR_KEY"
    assert "environment variable FAR_KEY, which is not set" in cli(add)
    monkeypatch.setenv("FAR_KEY", "wrong")
    assert "does not let this server in" in cli(add)
    monkeypatch.setenv("FAR_KEY", key)
    assert "has no model 'small'; it has tiny, big" in cli(f"{add} --model small")
    assert "own; offer the upstream's under" in cli(
        f"{add} --model mistral-moderation-2411=mistral-moderation-2603"
    )
    assert "far (mistral) answers" in cli(f"{add} --model tiny --model large=big")
    assert "already; change it with" in cli(add)
    second = cli(f"upstream add more --url {server.url} --key-env FAR_KEY --model large=tiny")
    assert "far has a model called 'large' already" in second
    listed = cli("upstream list")
    assert "tiny, large=big" in listed and "FAR_KEY" in listed and server.url in listed
    assert "answers, and has 2 models" in cli("upstream check")
    assert key.encode() not in (tmp_path / "cierzo.db").read_bytes()
    assert "has no model 'small'" in cli("upstream set far --model small")
    assert "offered from now on: tiny, huge=big" in cli(
        "upstream set far --model tiny --model huge=big"
    )
    with hostile_server(refusal(200, {"data": [{"id": "tiny"}, {"id": "big"}]})) as host:
        moved = cli(f"upstream set far --url {host.url}")
        assert "far (openai) answers" in moved and "huge=big" in moved
        assert key in host.requests[0][0], "what is not named stays"
    assert "no upstream 'fur'; there are: far" in cli("upstream set fur --model tiny")
    assert "is removed" in cli("upstream remove far")
    assert "no upstream 'far'; there are: none" in cli("upstream remove far")
    assert "no upstreams" in cli("upstream list")
    assert "far (mistral) answers" in cli(add), "all but this server's own moderation models"
    assert "moderation" not in cli("upstream list")


def test_what_cannot_be_an_upstream(cli: Cli, tmp_path: Path) -> None:
    for url in ("ftp://x", "http://", "x", "http://a:b@host", "http://host/?key=1", "http://[::1"):
        with pytest.raises(StoreError, match="URL|url"):
            upstreams.checked_url(url)
    assert upstreams.checked_url("https://host/prefix/v1/") == "https://host/prefix"
    for name in ("sk-1234567890", "", "a b"):
        with pytest.raises(StoreError, match="not the key") as raised:
            upstreams.checked_variable(name)
        assert not name or name not in str(raised.value)
    with pytest.raises(StoreError, match="Cierzo's settings"):
        upstreams.checked_variable("CIERZO_KEY")
    with hostile_server(refusal(200, {"data": 3})) as host:
        assert "is the URL right?" in cli(f"upstream add x --url {host.url}")
        added = f"upstream add x --url {host.url} --kind openai --tokenizer {tmp_path}"
        host.answers = [refusal(200, {"data": [{"id": "a", "owned_by": "vllm"}]})]
        assert "kind vllm; this is openai" in cli(added.replace("\n", ""))
        assert "No tokenizer in" in cli(f"upstream add x --url {host.url} --tokenizer {tmp_path}")
        assert "x (vllm) answers" in cli(f"upstream add x --url {host.url}")
        host.answers = [refusal(200, {"data": [{"id": "c", "meta": {"n_ctx": 1024}}]})]
        cli(f"upstream add y --url {host.url}")
        with open_store(data=tmp_path) as database:
            assert upstreams.find(database, "y").models[0].max_context_length == 1024
        host.answers = [refusal(200, {"data": [{"id": "b"}]})]
        assert "x no longer has a" in cli("upstream check")


def test_names_here_and_there(tmp_path: Path) -> None:
    with temporary_database() as database:
        models = [UpstreamModel("tiny", "tiny")]
        added = upstreams.add(database, "far", "openai", "http://host", models)
        assert upstreams.find(database, "far") == added
        with pytest.raises(SettingError, match="both called 'tiny'.*set far --model OTHER=tiny"):
            FollowedUpstreams(database, key_of, {"tiny"}).load()


def test_a_server_of_upstreams_only(
    far: tuple[LiveServer, str], cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The program itself, over a socket: chat, the models' list, and the key nowhere."""
    server, key = far
    assert "no upstreams" in cli("serve --only-upstreams --port 0")
    monkeypatch.setenv("FAR_KEY", key)
    cli(f"upstream add far --url {server.url} --key-env FAR_KEY --model far=tiny")
    command = [sys.executable, "-m", "cierzo", "serve", "--only-upstreams", "--port", "0"]
    with subprocess.Popen(
        [*command, "--data", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        url = process.stdout.readline().split()[2].rstrip(";")
        with httpx.Client(base_url=url, timeout=20) as client:
            answer = client.post(CHAT, json=body(model="far"))
            assert answer.json()["choices"][0]["message"]["content"] == "Hello there"
            (card,) = client.get("/v1/models").json()["data"]
            assert card["id"] == "far" and card["max_context_length"] == 512
            asked = {"model": "mistral-moderation-2411", "input": "x"}
            refused = client.post("/v1/moderations", json=asked)
            assert refused.json()["type"] == "invalid_model"
            assert client.get("/health").json()["status"] == "ok"
            cli("upstream set far --model near=tiny")
            assert eventually(lambda: client.get("/v1/models").json()["data"][0]["id"] == "near")
            assert client.post(CHAT, json=body(model="near")).status_code == 200
        process.send_signal(signal.SIGTERM)
        printed, logged = process.communicate(timeout=20)
        assert process.returncode == 0
    assert key not in printed + logged
    usage = cli("usage --by model --csv").splitlines()
    assert usage[1:3] == ["far,1,3,3,11,0.00,0", "near,1,3,3,11,0.00,0"]
    assert "nothing in the ledger" in cli("cost --machine-per-hour 1"), "nothing was computed here"
