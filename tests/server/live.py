"""A server on a real socket, in a thread of the test's process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cierzo.classifiers.definition import ClassifierFolder
from cierzo.server.app import Background, build_app
from cierzo.server.config import ServerConfig
from cierzo.server.run import Server, bind
from cierzo.server.served_model import ServedModel
from cierzo.store import Database
from cierzo.store.files import FileStore
from tests.store.temporary import temporary_database


@dataclass
class LiveServer:
    url: str
    server: Server
    thread: threading.Thread

    def stop(self) -> None:
        self.server.should_exit = True


@contextmanager
def live_server(
    models: Sequence[ServedModel],
    config: ServerConfig | None = None,
    database: Database | None = None,
    classifiers: ClassifierFolder | None = None,
    file_store: FileStore | None = None,
    background: Background | None = None,
) -> Iterator[LiveServer]:
    """Without a database the server has one of its own, without keys; and a folder of files."""
    ready = threading.Event()
    kept = temporary_database() if database is None else nullcontext(database)
    folder = TemporaryDirectory(prefix="cierzo-data-")
    with folder as data, kept as store, bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        files = file_store or FileStore(store, Path(data))
        app = build_app(models, store, files, config, classifiers, background)
        server = Server(app, listener, lambda host, port: ready.set())
        thread = threading.Thread(target=server.run_bound, daemon=True)
        thread.start()
        assert ready.wait(120), "the server did not start"
        live = LiveServer(f"http://127.0.0.1:{port}", server, thread)
        try:
            yield live
        finally:
            live.stop()
            thread.join()
