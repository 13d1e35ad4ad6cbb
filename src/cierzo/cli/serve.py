"""`cierzo serve`: the server, from settings to a line to copy."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import json
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cierzo.cli import options
from cierzo.cli.console import err
from cierzo.cli.logs import configure_logs
from cierzo.cli.store import store_of
from cierzo.cli.upstream import key_of
from cierzo.errors import SettingError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from cierzo.llm import LLM
    from cierzo.server.served_model import ServedModel
    from cierzo.server.token_model import TokenModel
    from cierzo.server.upstream.following import FollowedUpstreams
    from cierzo.settings import Settings
    from cierzo.store import Database


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Catalogue names, hf:owner/repo[:file], or paths; none: the default model.",
            metavar="MODEL",
        ),
    ] = None,
    host: options.Host = None,
    port: options.Port = None,
    threads: options.Threads = None,
    isa: options.Isa = None,
    dtype: options.Dtype = None,
    max_model_len: options.MaxModelLen = None,
    memory: options.Memory = None,
    kv_cache_dtype: options.KvCacheDtype = None,
    token_budget: options.TokenBudget = None,
    max_running: options.MaxRunning = None,
    max_waiting: options.MaxWaiting = None,
    prefix_caching: options.PrefixCaching = None,
    speculation: options.Speculation = None,
    only_upstreams: Annotated[
        bool,
        typer.Option("--only-upstreams", help="No model here: only those of `cierzo upstream`."),
    ] = False,
    strict: options.Strict = None,
    log_format: options.LogFormat = None,
    allow_remote: options.AllowRemote = None,
    transcript_days: options.TranscriptDays = None,
    home: options.Home = None,
    data: options.Data = None,
    database_url: options.DatabaseUrl = None,
) -> None:
    """Serve models behind the Mistral API until SIGTERM or Ctrl-C."""
    settings = options.settings_of(
        host=host,
        port=port,
        threads=threads,
        isa=isa,
        dtype=dtype,
        max_model_len=max_model_len,
        memory=memory,
        kv_cache_dtype=kv_cache_dtype,
        token_budget=token_budget,
        max_running=max_running,
        max_waiting=max_waiting,
        prefix_caching=prefix_caching,
        speculation=speculation,
        strict=strict,
        log_format=log_format,
        allow_remote=allow_remote,
        transcript_days=transcript_days,
        home=home,
        data=data,
        database_url=database_url,
    )
    configure_logs(settings.log_format)
    if only_upstreams and models:
        raise typer.BadParameter("--only-upstreams leaves no place for models here; name none")
    named = {} if only_upstreams else name_models(models)
    from cierzo.server.run import bind
    from cierzo.server.upstream.following import FollowedUpstreams
    from cierzo.store import api_keys, transcripts

    # What can be refused at once is refused before gigabytes are fetched, packed and loaded.
    with store_of(settings) as database:
        has_keys = api_keys.any_exists(database)
        check_reach(settings.host, settings.allow_remote, has_keys)
        transcripts.delete_expired(database)
        elsewhere = FollowedUpstreams(database, key_of, named)
        remote = elsewhere.load()
        if not named and not remote:
            raise SettingError("there are no upstreams; `cierzo upstream add` adds one")
        with bind(settings.host, settings.port) as listener:
            if not has_keys:
                err.print(f"no API keys yet: open to all {_who_reaches(settings.host)}")
            _serve_on(listener, named, remote, elsewhere, settings, database)


def check_reach(host: str, allow_remote: bool, has_keys: bool) -> None:
    """Refuse an address that other machines can reach, unless callers need a key there or the
    owner said so."""
    if allow_remote or has_keys or _is_loopback(host):
        return
    raise SettingError(
        f"--host {host} can be reached from other machines and there are no API keys: make one"
        " with `cierzo keys create NAME`, or add --allow-remote if it shall be open to all"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _who_reaches(host: str) -> str:
    return "on this machine" if _is_loopback(host) else f"who reach {host}"


def id_of(name_or_path: str) -> str:
    """What clients call the model: its name, or for a path the file's or folder's own."""
    path = Path(name_or_path)
    if not path.exists():
        return name_or_path
    return path.resolve().stem if path.is_file() else path.resolve().name


def name_models(names_or_paths: list[str] | None) -> dict[str, str]:
    """What to load by what clients will call it, in order; none given: the default model.

    Raises SettingError when two would be called the same.
    """
    from cierzo.hub import DEFAULT_MODEL

    named: dict[str, str] = {}
    for name in names_or_paths or [DEFAULT_MODEL]:
        model_id = id_of(name)
        if model_id in named:
            raise SettingError(
                f"{named[model_id]} and {name} would both be called {model_id!r}, and clients"
                " choose a model by that name: rename one of the files, or serve one of them"
            )
        named[model_id] = name
    return named


def _serve_on(
    listener: socket.socket,
    named: dict[str, str],
    remote: Sequence[ServedModel],
    elsewhere: FollowedUpstreams,
    settings: Settings,
    database: Database,
) -> None:
    """Load every model, then answer on `listener` until told to stop. `remote` are those that live
    `elsewhere` now."""
    from cierzo.classifiers.definition import ClassifierFolder
    from cierzo.cli.local import memory_of_each, packed_folder
    from cierzo.jobs.worker import run_jobs
    from cierzo.llm import LLM
    from cierzo.server.app import build_app
    from cierzo.server.config import ServerConfig
    from cierzo.server.run import Server
    from cierzo.server.warm_up import warm_up
    from cierzo.store.files import FileStore

    folders = {model_id: packed_folder(name, settings) for model_id, name in named.items()}
    memory = memory_of_each(list(folders.values()), settings)
    with ExitStack() as stack:
        served: list[ServedModel] = []
        for (model_id, folder), nbytes in zip(folders.items(), memory, strict=True):
            started = time.perf_counter()
            own = settings.model_copy(update={"memory": f"{nbytes}B"})
            llm = stack.enter_context(LLM(folder, settings=own))
            model = _served(model_id, llm)
            served.append(model)
            stack.callback(model.text.close)
            warm_up(model)
            err.print(f"{model_id} loaded in {time.perf_counter() - started:.1f} s")
        served += remote
        config = ServerConfig(
            strict_fields=settings.strict,
            transcript_days=settings.transcript_days,
            max_open_per_workspace=(settings.max_running + settings.max_waiting) // 2,
        )
        files = FileStore(database, settings.data)

        async def background(app: FastAPI) -> None:
            async with asyncio.TaskGroup() as together:
                together.create_task(run_jobs(app))
                together.create_task(elsewhere.follow(app.state.models))

        classifiers = ClassifierFolder(settings.data)
        app = build_app(served, database, files, config, classifiers, background)
        gc.collect()
        gc.freeze()  # what is loaded stays: to walk it again would stop all streams for 50 ms
        first = served[0].id
        Server(app, listener, lambda host, port: _say_ready(first, host, port)).run_bound()
        gc.unfreeze()


def _served(model_id: str, llm: LLM) -> TokenModel:
    from cierzo.server.chat_text import ChatText
    from cierzo.server.schemas.models import Capabilities
    from cierzo.server.token_model import TokenModel
    from cierzo.tokenizer.fim_prompt import can_fill_in

    text = ChatText(llm.tokenizer, llm.chat_prompt, llm.config.vocab_size)
    return TokenModel(
        id=model_id,
        engine=llm.engine,
        text=text,
        created=int(time.time()),
        max_context_length=llm.max_model_len,
        embedding_dim=llm.config.dim,
        pooling=llm.config.pooling,
        capabilities=Capabilities(
            completion_chat=True,
            function_calling=text.can_call_tools,
            completion_fim=can_fill_in(llm.tokenizer),
        ),
    )


def _say_ready(model: str, host: str, port: int) -> None:
    """The address and a line to copy, on stdout, where a script can read them."""
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    body = {"model": model, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
    typer.echo(f"ready at {url}; try:\n")
    header = "-H 'Content-Type: application/json'"
    typer.echo(f"curl {url}/v1/chat/completions {header} -d '{json.dumps(body)}'\n")
