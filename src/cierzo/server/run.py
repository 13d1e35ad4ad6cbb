"""Runs an app on a socket: binds, says when it is ready, drains on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from cierzo.errors import SettingError

KEEP_ALIVE_S = 65
"""Longer than clients keep an idle connection, or they would write to one that is being closed."""

CUT_OFF_S = 5.0
"""After the drain time, how long cut-off requests have to send their last bytes."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket on host and port, IPv4 or IPv6."""
    if not 0 <= port <= 65535:
        raise SettingError(f"port must be between 0 and 65535; got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=512)
    except socket.gaierror as error:
        raise SettingError(
            f"host {host!r} is not an address of this machine ({error.strerror}); "
            "use 127.0.0.1, or 0.0.0.0 to be reachable from outside"
        ) from None
    except OSError as error:
        raise SettingError(_bind_failure(host, port, error)) from None
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, which a
    # pre-bound one does not, and without it an answer's second packet waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _bind_failure(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use; stop the program that has it, or take another "
            "port (0: any free one)"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges that this user does not have; take one over 1023"
    return f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"


class Server(uvicorn.Server):
    """uvicorn on a socket that is already bound, with a drain that ends.

    `on_ready` is told the host and port. On SIGTERM or SIGINT no new request is taken, running
    ones finish within the app's `drain_s`, and what is left then ends with finish_reason "error".
    Runs in any thread; signals are handled when it is the main one, `should_exit` works
    everywhere.
    """

    def __init__(
        self,
        app: FastAPI,
        listener: socket.socket,
        on_ready: Callable[[str, int], None] | None = None,
    ) -> None:
        self._app = app
        self._listener = listener
        self._on_ready = on_ready
        self._drain_s: float = app.state.config.drain_s
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                lifespan="on",
                timeout_graceful_shutdown=int(self._drain_s + CUT_OFF_S) + 1,
            )
        )

    def run_bound(self) -> None:
        """Serve until told to stop."""
        self.run(sockets=[self._listener])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second stops at once.

        uvicorn's own would raise the signal again afterwards, and so report a clean stop
        as a death by signal.
        """
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            host, port = self._listener.getsockname()[:2]
            self._on_ready(host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, wait for running requests, cut off those that outlast the drain."""
        cut_off = asyncio.ensure_future(self._cut_off())
        try:
            await super().shutdown(sockets)
        finally:
            cut_off.cancel()

    async def _cut_off(self) -> None:
        await asyncio.sleep(self._drain_s)
        await self._app.state.models.stop()
