"""Servers elsewhere and which of their models are offered here. Their keys are not in the store:
only the names of the environment variables that hold them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, Row, delete, select, update

from cierzo.errors import StoreError, StoreNotFoundError
from cierzo.ids import now_ms
from cierzo.store.db import Database
from cierzo.store.insert import insert_new
from cierzo.store.names import checked_name, printable
from cierzo.store.tables import upstreams

OWN_PREFIX = "CIERZO_"


@dataclass(frozen=True, slots=True)
class UpstreamModel:
    """`name` here, `there` on the upstream. `capabilities` as its `/v1/models` says them; None
    where it says nothing, like a length in tokens that it does not tell."""

    name: str
    there: str
    max_context_length: int | None = None
    capabilities: dict[str, bool] | None = None


@dataclass(frozen=True, slots=True)
class Upstream:
    """One row. `url` is what paths like `/v1/models` follow. `tokenizer` is a local folder."""

    name: str
    kind: str
    url: str
    key_env: str | None
    tokenizer: str | None
    models: tuple[UpstreamModel, ...]
    created_at_ms: int


def add(
    database: Database,
    name: str,
    kind: str,
    url: str,
    models: Sequence[UpstreamModel],
    *,
    key_env: str | None = None,
    tokenizer: str | None = None,
) -> Upstream:
    """A new upstream. Raises StoreError for one of that name, a model's name that another has,
    and what cannot be kept."""
    added = _checked(Upstream(name, kind, url, key_env, tokenizer, tuple(models), now_ms()))

    def insert(connection: Connection) -> None:
        others = [found for found in _all(connection) if found != added]
        if any(found.name == name for found in others):
            raise StoreError(
                f"there is an upstream {name!r} already; change it with `cierzo upstream set`"
            )
        _check_names(added, others)
        insert_new(connection, upstreams, [_row(added)])

    database.write(insert)
    return added


def change(database: Database, changed: Upstream) -> Upstream:
    """What the upstream of that name is from now on. Raises StoreNotFoundError, StoreError."""
    changed = _checked(changed)
    statement = update(upstreams).where(upstreams.c.name == changed.name).values(_row(changed))

    def work(connection: Connection) -> int:
        _check_names(changed, [found for found in _all(connection) if found.name != changed.name])
        return connection.execute(statement).rowcount

    if not database.write(work):
        find(database, changed.name)  # which says that it is gone
    return changed


def list_all(database: Database) -> list[Upstream]:
    """Every upstream, oldest first."""
    return database.read(_all)


def find(database: Database, name: str) -> Upstream:
    """Raises StoreNotFoundError, which lists what there is."""
    found = {upstream.name: upstream for upstream in list_all(database)}
    if name not in found:
        known = ", ".join(found) or "none"
        raise StoreNotFoundError(f"no upstream {printable(name)!r}; there are: {known}")
    return found[name]


def remove(database: Database, name: str) -> None:
    """Forget it; the ledger's rows keep its name. Raises StoreNotFoundError."""
    find(database, name)
    statement = delete(upstreams).where(upstreams.c.name == name)
    database.write(lambda connection: connection.execute(statement))


def checked_url(url: str) -> str:
    """The URL without a trailing `/v1`. Raises StoreError for what is no plain http(s) address."""
    try:
        parts = urlsplit(url.strip())
        is_plain = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_plain = False
    if not is_plain or parts.scheme not in ("http", "https") or not url.isprintable():
        raise StoreError("the --url must look like https://host or http://host:port")
    if parts.username is not None or parts.password is not None:
        raise StoreError(
            "a URL is no place for a password; put the key into an environment variable and name"
            " that with --key-env"
        )
    if parts.query or parts.fragment:
        raise StoreError(f"the --url has more than an address and a path: {url!r:.200}")
    path = re.sub(r"(/v1)?/*$", "", parts.path.rstrip("/"))
    return f"{parts.scheme}://{parts.netloc}{path}"


def checked_variable(name: str) -> str:
    """The name of an environment variable. Raises StoreError; a key itself is not repeated."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", name):
        raise StoreError(
            "--key-env takes the name of an environment variable, such as MISTRAL_API_KEY, not"
            " the key"
        )
    if name.upper().startswith(OWN_PREFIX):
        raise StoreError(
            f"{name}: variables that begin with {OWN_PREFIX} are Cierzo's settings; choose another"
        )
    return name


def _checked(upstream: Upstream) -> Upstream:
    """As it can be kept. Raises StoreError."""
    if not upstream.models:
        raise StoreError(f"the upstream {upstream.name} offers no models; name some with --model")
    return replace(
        upstream,
        name=checked_name(upstream.name),
        url=checked_url(upstream.url),
        key_env=None if upstream.key_env is None else checked_variable(upstream.key_env),
    )


def _row(upstream: Upstream) -> dict[str, Any]:
    return asdict(upstream) | {"models": [asdict(model) for model in upstream.models]}


def _check_names(added: Upstream, others: Sequence[Upstream]) -> None:
    taken = {model.name: found.name for found in others for model in found.models}
    for model in added.models:
        checked_name(model.name)
        if model.name in taken:
            raise StoreError(
                f"the upstream {taken[model.name]} has a model called {model.name!r} already; give"
                f" this one another name with --model NAME={model.there}"
            )
        taken[model.name] = added.name


def _all(connection: Connection) -> list[Upstream]:
    query = select(upstreams).order_by(upstreams.c.created_at_ms, upstreams.c.name)
    return [_upstream(row) for row in connection.execute(query)]


def _upstream(row: Row[Any]) -> Upstream:
    fields = dict(row._mapping)
    models = tuple(UpstreamModel(**model) for model in fields.pop("models"))
    return Upstream(**fields, models=models)
