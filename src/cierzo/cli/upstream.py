"""`cierzo upstream …`: models that live on other servers, offered here."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import err, out, print_table
from cierzo.cli.store import open_store
from cierzo.errors import CierzoError, SettingError

if TYPE_CHECKING:
    from cierzo.server.upstream.offer import ListedModels
    from cierzo.store.upstreams import Upstream, UpstreamModel

Kind = StrEnum("Kind", ["mistral", "openai", "vllm"])

Name = Annotated[str, typer.Argument(help="What you will know the upstream by.", metavar="NAME")]
KeyEnv = Annotated[
    str | None,
    typer.Option(
        help="The environment variable with its API key: now, and of each `serve`.",
        metavar="VARIABLE",
        show_default=False,
    ),
]
AKind = Annotated[
    Kind | None,
    typer.Option(
        help="mistral: the hosted API or another Cierzo; vllm; openai: any other server of"
        " OpenAI's API. If not given, what its list of models looks like.",
        show_default=False,
    ),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the models' tokenizer files, for kind vllm: prompts are then rendered"
        " here and sent as token ids.",
        show_default=False,
    ),
]


def add(
    name: Name,
    url: Annotated[str, typer.Option(help="Its address, with or without /v1 at the end.")],
    key_env: KeyEnv = None,
    kind: AKind = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model to offer, as THEIRS or OURS=THEIRS; may be repeated. If not given, all.",
            show_default=False,
        ),
    ] = None,
    tokenizer: Tokenizer = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Offer models that live on another server; a running `serve` sees it within seconds.

    The server is asked for its models, so it has to answer. Its key is not kept, only where to
    find it.
    """
    from cierzo.ids import now_ms
    from cierzo.store import upstreams
    from cierzo.store.upstreams import Upstream

    where = None if tokenizer is None else str(tokenizer)
    wanted = Upstream(name, kind.value if kind else "", url, key_env, where, (), now_ms())
    asked = _asked(wanted, None if model is None else [_pair(text) for text in model])
    with open_store(data=data, database_url=database_url) as database:
        upstreams.add(
            database,
            name,
            asked.kind,
            asked.url,
            asked.models,
            key_env=asked.key_env,
            tokenizer=asked.tokenizer,
        )
    _say(asked)


def set_(
    name: Name,
    url: Annotated[str | None, typer.Option(help="Its new address.", show_default=False)] = None,
    key_env: KeyEnv = None,
    kind: AKind = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model to offer from now on, as THEIRS or OURS=THEIRS; may be repeated. If not"
            " given, those offered so far.",
            show_default=False,
        ),
    ] = None,
    tokenizer: Tokenizer = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Change an upstream; what is not given stays. A running `serve` sees it within seconds.

    The server is asked for its models, and what it says of their lengths and abilities is taken
    over. Requests that are being answered end as they began. To take away its key or tokenizer,
    remove it and add it again.
    """
    from cierzo.store import upstreams

    with open_store(data=data, database_url=database_url) as database:
        old = upstreams.find(database, name)
        asked = _asked(
            replace(
                old,
                url=url or old.url,
                kind=kind.value if kind else "" if url else old.kind,
                key_env=key_env or old.key_env,
                tokenizer=str(tokenizer) if tokenizer else old.tokenizer,
            ),
            [_pair(text) for text in model]
            if model
            else [(offered.name, offered.there) for offered in old.models],
        )
        upstreams.change(database, asked)
    _say(asked)


def _pair(text: str) -> tuple[str, str]:
    """Our name and theirs of `--model OURS=THEIRS`, or of THEIRS alone."""
    ours, _, theirs = text.rpartition("=")
    return ours or theirs, theirs


def _asked(wanted: Upstream, models: Sequence[tuple[str, str]] | None) -> Upstream:
    """`wanted` with what its server says: its models, and its kind where that is "".

    Raises SettingError, StoreError, EngineError, ModelError.
    """
    from cierzo.store import upstreams

    name, url = wanted.name, upstreams.checked_url(wanted.url)
    if wanted.key_env is not None:
        upstreams.checked_variable(wanted.key_env)
    key = key_of(wanted)
    if key is not None and url.startswith("http://"):
        err.print(f"note: the key goes to {url} unencrypted")
    listed = _ask(name, url, key)
    kind, tokenizer = wanted.kind or listed.kind, wanted.tokenizer
    if tokenizer is not None:
        if kind != "vllm":
            raise typer.BadParameter(
                f"--tokenizer is for servers that take token ids, kind vllm; this is {kind}"
            )
        from cierzo.tokenizer.loading import load_tokenizer

        folder = Path(tokenizer).expanduser().resolve()
        load_tokenizer(folder)
        tokenizer = str(folder)
    offered = _chosen(name, listed, models)
    if tokenizer is not None and any(offer.max_context_length is None for offer in offered):
        raise SettingError(
            f"the upstream {name} does not say how many tokens fit its models' context, so"
            " prompts cannot be made here; leave --tokenizer out"
        )
    return replace(wanted, url=url, kind=kind, tokenizer=tokenizer, models=tuple(offered))


def _say(upstream: Upstream) -> None:
    models = ", ".join(_shown(offer) for offer in upstream.models)
    out.print(f"{upstream.name} ({upstream.kind}) answers; offered from now on: {models}")
    if upstream.key_env is not None:
        out.print(
            f"a server that runs already needs {upstream.key_env} in its own environment; start it"
            " again if that is new there or has changed"
        )


def list_(data: options.Data = None, database_url: options.DatabaseUrl = None) -> None:
    """List the upstreams and their models."""
    from rich.table import Table

    from cierzo.store import upstreams

    with open_store(data=data, database_url=database_url) as database:
        found = upstreams.list_all(database)
    if not found:
        out.print("no upstreams; `cierzo upstream add` adds one")
        return
    table = Table("name", "kind", "url", "key in", "tokenizer", "models", box=None, pad_edge=False)
    for upstream in found:
        table.add_row(
            upstream.name,
            upstream.kind,
            upstream.url,
            upstream.key_env or "",
            upstream.tokenizer or "",
            ", ".join(_shown(model) for model in upstream.models),
        )
    print_table(table)


def check(
    name: Annotated[
        str | None, typer.Argument(help="Only this one; all if not given.", metavar="NAME")
    ] = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Ask the upstreams whether they answer and still have their models."""
    from cierzo.store import upstreams

    with open_store(data=data, database_url=database_url) as database:
        found = upstreams.list_all(database) if name is None else [upstreams.find(database, name)]
    troubles = []
    for upstream in found:
        try:
            listed = _ask(upstream.name, upstream.url, key_of(upstream))
        except CierzoError as error:
            troubles.append(str(error))
            continue
        there = {model.id for model in listed.data}
        gone = [model.there for model in upstream.models if model.there not in there]
        if gone:
            troubles.append(f"the upstream {upstream.name} no longer has {', '.join(gone)}")
        else:
            out.print(f"{upstream.name}: answers, and has {len(upstream.models)} models")
    if troubles:
        raise SettingError("; ".join(troubles))


def remove(name: Name, data: options.Data = None, database_url: options.DatabaseUrl = None) -> None:
    """Offer an upstream's models no longer; a running `serve` sees it within seconds.

    Requests that are being answered end as they began.
    """
    from cierzo.store import upstreams

    with open_store(data=data, database_url=database_url) as database:
        upstreams.remove(database, name)
    out.print(f"{name} is removed")


UPSTREAM: dict[str, Callable[..., None]] = {
    "add": add,
    "set": set_,
    "list": list_,
    "check": check,
    "remove": remove,
}


def key_of(upstream: Upstream) -> str | None:
    """Its key, from the environment. Raises SettingError where the variable is not set."""
    return None if upstream.key_env is None else _key(upstream.name, upstream.key_env)


def _key(name: str, variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise SettingError(
            f"the upstream {name} needs its key in the environment variable {variable}, which is"
            " not set"
        )
    if not (key.isascii() and key.isprintable()):
        raise SettingError(f"the key in {variable} has characters that no API key has")
    return key


def _ask(name: str, url: str, key: str | None) -> ListedModels:
    from cierzo.server.upstream.client import Patience, UpstreamClient
    from cierzo.server.upstream.offer import list_models

    # What the server would log is the error that this command ends with.
    logging.getLogger("cierzo").addHandler(logging.NullHandler())

    async def ask() -> ListedModels:
        return await list_models(UpstreamClient(name, url, key, Patience(max_attempts=1)))

    return asyncio.run(ask())


def _chosen(
    name: str, listed: ListedModels, wanted: Sequence[tuple[str, str]] | None
) -> list[UpstreamModel]:
    """What is offered, with our names. Raises SettingError for what the upstream lacks and for
    names that this server's own moderation models have."""
    from cierzo.classifiers.moderation import find_moderation_model

    there = {model.id: model for model in listed.data}
    if not wanted:
        # This server's own keep their names: guardrails must not send texts elsewhere unasked.
        return [
            model.as_offered(model.id)
            for model in there.values()
            if find_moderation_model(model.id) is None
        ]
    offered = []
    for ours, theirs in wanted:
        if theirs not in there:
            raise SettingError(
                f"the upstream {name} has no model {theirs!r}; it has {', '.join(there) or 'none'}"
            )
        if find_moderation_model(ours) is not None:
            raise SettingError(
                f"{ours} is a moderation model of this server's own; offer the upstream's under"
                f" another name: --model NAME={theirs}"
            )
        offered.append(there[theirs].as_offered(ours))
    return offered


def _shown(model: UpstreamModel) -> str:
    return model.name if model.name == model.there else f"{model.name}={model.there}"
