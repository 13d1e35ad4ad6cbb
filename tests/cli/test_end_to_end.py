"""The program as people run it, on a tiny model: serve, generate, bench, and the demo."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.tiny_checkpoints import BlockType, tiny_model, write_gguf

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_gguf(path, tiny_model("llama", max_seq_len=2048), block_type=BlockType.Q8_0)
    return path


def cierzo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cierzo", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_serve_prints_a_line_that_works_and_stops_on_sigterm(model: Path) -> None:
    command = [sys.executable, "-m", "cierzo", "serve", str(model), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        [line] = [next(server.stdout) for _ in range(3)][2:]
        words = shlex.split(line)
        body = json.loads(words[words.index("-d") + 1]) | {"max_tokens": 4}
        assert body["model"] == "tiny"
        request = urllib.request.Request(
            words[1], json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            answer = json.load(response)
        usage = answer["usage"]  # the first draw may already end the text: no lower bound
        assert 0 < usage["prompt_tokens"] == usage["total_tokens"] - usage["completion_tokens"]
        assert usage["completion_tokens"] <= 4
    finally:
        server.send_signal(signal.SIGTERM)
        _, complaints = server.communicate()
    assert server.returncode == 0, complaints


def test_a_port_in_use_is_one_clean_message(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = cierzo("serve", str(model), "--port", str(taken.getsockname()[1]))
    assert result.returncode == 1
    assert "is in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_generate_is_the_same_with_the_same_seed(model: Path) -> None:
    arguments = ["generate", str(model), "hello", "--max-tokens", "8", "--temperature", "1"]
    first, second = (cierzo(*arguments, "--seed", "3") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout != "\n"


def test_bench_prints_one_object(model: Path) -> None:
    arguments = ["--prompt", "16", "--generate", "8", "--batch", "1,2", "--repeat", "1"]
    arguments += ["--threads", "1", "--kv-cache-dtype", "int8"]
    result = cierzo("bench", str(model), *arguments, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["threads"] == 1
    assert report["kv_cache_dtype"] == "int8"
    assert report["load_s"] > 0 and report["memory"]["resident_bytes"] > 1_000_000
    assert [row["batch"] for row in report["batches"]] == [1, 2]
    assert all(row["prefill_tok_s"] > 0 for row in report["batches"])
    assert all(row["decode_tok_s"] > 0 for row in report["batches"])


def test_bench_refuses_a_batch_that_is_none(model: Path) -> None:
    assert cierzo("bench", str(model), "--batch", "1,0").returncode == 2


def test_the_demo_ends_with_a_summary(model: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py"), str(model)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert result.returncode == 0, result.stderr
    for line in ("model", "prompt tokens", "completion tokens", "time to first token"):
        assert f"\n{line} " in result.stdout
    assert "tokens per second" in result.stdout and "resident memory" in result.stdout


def test_the_demo_fails_when_its_server_does(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py"), str(tmp_path / "none.gguf")],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "no file or folder" in result.stderr
