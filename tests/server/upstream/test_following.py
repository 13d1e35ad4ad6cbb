"""What is changed on the command line is changed in a running server, and breaks nothing off."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from cierzo.errors import SettingError
from cierzo.server.upstream import following
from cierzo.server.upstream.following import FollowedUpstreams
from cierzo.store import Database, upstreams
from cierzo.store.upstreams import Upstream, UpstreamModel
from tests.server.conftest import scripted_model
from tests.server.live import live_server
from tests.server.scripted import ScriptedEngine
from tests.server.test_chat import CHAT
from tests.server.test_errors import check
from tests.server.upstream.hostile import DONE, GOOD, Step, chunk, head, hostile_server
from tests.server.upstream.test_second_cierzo import body, content_of
from tests.store.temporary import temporary_database
from tests.waiting import eventually

SLOW: list[Step] = [head(), chunk("Hel"), 0.5, chunk("lo"), chunk(None, "stop"), DONE]


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOOK_S", 0.02)


def add(database: Database, url: str, name: str = "there", model: str = "far") -> Upstream:
    return upstreams.add(database, name, "mistral", url, [UpstreamModel(model, "tiny")])


def key_of(upstream: Upstream) -> str | None:
    if upstream.key_env == "UNREADABLE":
        raise PermissionError("not for this user")
    if upstream.key_env is not None:
        raise SettingError(f"the variable {upstream.key_env} is not set")
    return None


@contextmanager
def followed(database: Database) -> Iterator[httpx.Client]:
    """A client of a server with a model of its own and those of the store's upstreams."""
    elsewhere = FollowedUpstreams(database, key_of, {"own"})
    models = [scripted_model(ScriptedEngine(), "own"), *elsewhere.load()]

    async def background(app: FastAPI) -> None:
        await elsewhere.follow(app.state.models)

    with live_server(models, database=database, background=background) as server:
        with httpx.Client(base_url=server.url, timeout=20) as client:
            yield client


def offered(client: httpx.Client) -> set[str]:
    return {card["id"] for card in client.get("/v1/models").json()["data"]} - {
        "mistral-moderation-2411",
        "mistral-moderation-2603",
    }


def is_whole(stream: str) -> bool:
    return '"lo"' in stream and '"finish_reason":"stop"' in stream and "[DONE]" in stream


def test_added_changed_and_removed() -> None:
    with temporary_database() as database, followed(database) as client:
        assert offered(client) == {"own"}
        with hostile_server(GOOD) as first, hostile_server(SLOW) as second:
            there = add(database, first.url)
            assert eventually(lambda: offered(client) == {"own", "far"})
            assert content_of(client.post(CHAT, json=body())) == "Hello"
            moved = upstreams.change(database, replace(there, url=second.url))

            def asks_the_second() -> bool:
                return client.post(CHAT, json=body()).is_success and bool(second.requests)

            assert eventually(asks_the_second)
            with client.stream("POST", CHAT, json=body(stream=True)) as answer:
                pieces = answer.iter_text()
                begun = next(pieces)
                upstreams.change(database, replace(moved, models=(UpstreamModel("new", "tiny"),)))
                assert eventually(lambda: offered(client) == {"own", "new"})
                assert is_whole(begun + "".join(pieces)), "what was being answered is"
            check(client.post(CHAT, json=body()), 400, "invalid_model", "far")
            upstreams.remove(database, "there")
            assert eventually(lambda: offered(client) == {"own"})


def test_what_cannot_be_made_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_database() as database, hostile_server(GOOD) as host:
        with followed(database) as client, caplog.at_level(logging.ERROR):
            offer = [UpstreamModel("x", "tiny")]
            upstreams.add(database, "bad", "mistral", host.url, offer, key_env="UNREADABLE")
            add(database, host.url, "good", "y")
            assert eventually(lambda: "y" in offered(client))
            assert "the upstream bad is not offered" in caplog.text


def test_two_of_one_name_leave_all_as_it_was(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Added by two commands at one moment, neither of which saw the other's."""
    monkeypatch.setattr(upstreams, "_check_names", lambda added, others: None)
    unseen, list_all = threading.Lock(), upstreams.list_all

    def seen_at_once(database: Database) -> list[Upstream]:
        with unseen:
            return list_all(database)

    monkeypatch.setattr(upstreams, "list_all", seen_at_once)
    with temporary_database() as database, hostile_server(GOOD) as host:
        add(database, host.url)
        with followed(database) as client, caplog.at_level(logging.ERROR):
            with unseen:
                add(database, host.url, "one", "new")
                add(database, host.url, "other", "new")
            assert eventually(lambda: "two models are called 'new'" in caplog.text)
            assert offered(client) == {"own", "far"}
            assert content_of(client.post(CHAT, json=body())) == "Hello"
            upstreams.remove(database, "other")
            assert eventually(lambda: offered(client) == {"own", "far", "new"})
            assert caplog.text.count("stay as they were") == 1, "said once"


def test_names_may_wander_between_upstreams() -> None:
    """Seen at once, one upstream's name is another's."""
    with temporary_database() as database, hostile_server(GOOD) as host:
        first, second = add(database, host.url, "a", "x"), add(database, host.url, "b", "y")
        with followed(database) as client:
            upstreams.remove(database, "a")
            upstreams.change(database, replace(second, models=(UpstreamModel("x", "tiny"),)))
            upstreams.add(database, "a", first.kind, host.url, [UpstreamModel("y", "tiny")])

            def is_there() -> bool:
                card = client.get("/v1/models/x")
                return card.is_success and card.json()["description"] == "tiny on the upstream b"

            assert eventually(lambda: is_there() and offered(client) == {"own", "x", "y"})
            for name in "xy":
                assert content_of(client.post(CHAT, json=body(model=name))) == "Hello"


def test_what_cannot_be_offered_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_database() as database, hostile_server(GOOD) as host:
        there = add(database, host.url)
        with followed(database) as client, caplog.at_level(logging.ERROR):
            upstreams.change(database, replace(there, key_env="FAR_KEY"))
            assert eventually(lambda: "variable FAR_KEY is not set" in caplog.text)
            add(database, host.url, "twin", "own")
            assert eventually(lambda: "both called 'own'" in caplog.text)
            assert content_of(client.post(CHAT, json=body())) == "Hello"
            assert offered(client) == {"own", "far"}
            assert caplog.text.count("FAR_KEY") == 1, "said once"


def test_a_name_goes_on_where_its_old_owner_fails(caplog: pytest.LogCaptureFixture) -> None:
    with temporary_database() as database, hostile_server(GOOD) as host:
        first, second = add(database, host.url, "a", "x"), add(database, host.url, "b", "y")
        without = replace(first, key_env="FAR_KEY", models=(UpstreamModel("z", "tiny"),))
        with followed(database) as client, caplog.at_level(logging.ERROR):
            upstreams.change(database, without)
            assert eventually(lambda: "FAR_KEY" in caplog.text)
            assert offered(client) == {"own", "x", "y"}
            upstreams.change(database, replace(second, models=(UpstreamModel("x", "tiny"),)))

            def is_there() -> bool:
                card = client.get("/v1/models/x")
                return card.is_success and card.json()["description"] == "tiny on the upstream b"

            assert eventually(lambda: is_there() and offered(client) == {"own", "x"})


def test_the_retired_are_let_go_when_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RETIREMENT_S", 0.0)
    with temporary_database() as database, hostile_server(SLOW) as host:
        add(database, host.url)
        elsewhere = FollowedUpstreams(database, key_of)
        (model,) = elsewhere.load()

        async def background(app: FastAPI) -> None:
            await elsewhere.follow(app.state.models)

        with live_server([model], database=database, background=background) as server:
            with httpx.stream("POST", server.url + CHAT, json=body(stream=True)) as answer:
                pieces = answer.iter_text()
                begun = next(pieces)
                upstreams.remove(database, "there")
                assert is_whole(begun + "".join(pieces))
            assert eventually(lambda: not model.is_running())
