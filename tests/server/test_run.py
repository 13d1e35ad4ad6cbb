"""Binding, the ready line, and signals, in a process of its own where need be."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx2 as httpx
import pytest

from cierzo.errors import SettingError
from cierzo.server.run import bind
from tests.server.test_chat import CHAT, body

PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from cierzo.server.app import build_app
    from cierzo.server.config import ServerConfig
    from cierzo.server.run import Server, bind
    from cierzo.store.files import FileStore
    from tests.server.conftest import scripted_model
    from tests.server.scripted import ScriptedEngine
    from tests.store.temporary import temporary_database

    engine = ScriptedEngine(lambda request: ["Hel", 0.4, "lo"])
    with temporary_database() as database, bind("127.0.0.1", 0) as listener:
        files = FileStore(database, Path(sys.argv[1]))
        app = build_app([scripted_model(engine)], database, files, ServerConfig(drain_s=5))
        Server(app, listener, lambda host, port: print(host, port, flush=True)).run_bound()
    print("engine closed", engine.is_closed, flush=True)
    """
)


def test_port_in_use() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(SettingError, match=f"port {port} on 127.0.0.1 is in use"):
            bind("127.0.0.1", port)


def test_connections_send_at_once() -> None:
    """Else an answer's second packet waits for the acknowledgement of its first."""
    with bind("127.0.0.1", 0) as listener:
        with socket.create_connection(listener.getsockname()):
            connection, _ = listener.accept()
            with connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_bad_addresses() -> None:
    with pytest.raises(SettingError, match="host 'no such host' is not an address"):
        bind("no such host", 0)
    with pytest.raises(SettingError, match="port must be between 0 and 65535; got 70000"):
        bind("127.0.0.1", 70000)
    with pytest.raises(SettingError, match=r"cannot listen on 192\.0\.2\.1:0"):
        bind("192.0.2.1", 0)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_cleanly(sign: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        host, port = process.stdout.readline().split()
        url = f"http://{host}:{port}"
        with httpx.stream("POST", url + CHAT, json=body(stream=True)) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(sign)
            text = "\n".join(lines)
        assert text.rstrip().endswith("data: [DONE]")
        assert '"finish_reason":"stop"' in text
        output, errors = process.communicate()
    finally:
        process.kill()
    assert (process.returncode, output) == (0, "engine closed True\n"), errors
    with pytest.raises(OSError), socket.create_connection((host, int(port)), timeout=1):
        pass
