"""A hub on loopback that speaks the real one's protocol: model info, resolve, redirect, ranges.

Knobs make it misbehave: cut connections, lie about contents, ignore ranges, want a login.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40


@dataclass
class LocalHub:
    """`repos` maps owner/name to its files; `ranges` logs the Range header of each request."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commit: str = COMMIT
    url: str = ""
    in_git: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    corrupt: set[str] = field(default_factory=set)
    cut_after: list[int] = field(default_factory=list)
    ignore_ranges: bool = False
    ranges: list[tuple[str, str | None]] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def info(self, repo: str) -> dict[str, object]:
        siblings = []
        for name, data in self.repos[repo].items():
            sibling: dict[str, object] = {"rfilename": name, "size": len(data)}
            sibling["blobId"] = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
            if name not in self.in_git:
                digest = hashlib.sha256(data).hexdigest()
                sibling["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            siblings.append(sibling)
        return {
            "id": repo,
            "sha": self.commit,
            "siblings": siblings,
            "tags": ["license:apache-2.0"],
        }


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[LocalHub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        if path.startswith("api/models/"):
            self._model_info(path.removeprefix("api/models/"))
        elif path.startswith("storage/"):
            self._file(path.removeprefix("storage/"))
        else:
            repo, _, rest = path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            self.hub.fetched.append(name)
            assert revision == self.hub.commit
            if name in self.hub.in_git:
                self._file(f"{repo}/{name}")
            else:
                self._answer(302, b"", {"Location": f"/storage/{repo}/{name}"})

    def _model_info(self, repo: str) -> None:
        if repo in self.hub.gated:
            self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif repo not in self.hub.repos:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            self._answer(200, json.dumps(self.hub.info(repo)).encode())

    def _file(self, path: str) -> None:
        owner, repo, name = path.split("/", 2)
        data = self.hub.repos[f"{owner}/{repo}"][name]
        if name in self.hub.corrupt:
            data = bytes([data[0] ^ 1]) + data[1:]
        wanted = self.headers.get("Range")
        self.hub.ranges.append((name, wanted))
        start = 0
        if wanted and not self.hub.ignore_ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        body = data[start:]
        headers = {"Accept-Ranges": "bytes", "ETag": '"tag"'}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.hub.cut_after.pop(0) if self.hub.cut_after else None
        self._answer(206 if start else 200, body, headers, cut)

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        self.wfile.flush()
        if cut is not None:
            self.close_connection = True
            self.connection.close()


@contextmanager
def running_hub() -> Iterator[LocalHub]:
    """A hub on a free port, stopped at the end."""
    hub = LocalHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
