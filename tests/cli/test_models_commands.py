"""pull, models and remove against a hub on loopback, as a person would type them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.hub.local_hub import running_hub

WEIGHTS = bytes(1 << 20)
NAME = "hf:owner/tiny:tiny.gguf"


def cierzo(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, as HF_ENDPOINT is read when it starts."""
    return subprocess.run(
        [sys.executable, "-m", "cierzo", *arguments],
        env={**os.environ, "CIERZO_HOME": str(home), "HF_HOME": str(home / "hf"), **environment},
        capture_output=True,
        text=True,
    )


def test_pull_list_remove(tmp_path: Path) -> None:
    with running_hub() as hub:
        hub.repos["owner/tiny"] = {"tiny.gguf": WEIGHTS}
        pulled = cierzo(tmp_path, "pull", NAME, HF_ENDPOINT=hub.url)
    assert pulled.returncode == 0, pulled.stderr
    assert "1.0 MB" in pulled.stdout and "apache-2.0" in pulled.stdout
    assert "100 %" in pulled.stderr
    assert NAME in cierzo(tmp_path, "models").stdout
    assert "1.0 MB freed" in cierzo(tmp_path, "remove", NAME).stdout
    assert "no models here yet" in cierzo(tmp_path, "models").stdout


def test_offline_is_one_clean_message(tmp_path: Path) -> None:
    result = cierzo(tmp_path, "pull", NAME, HF_HUB_OFFLINE="1")
    assert result.returncode == 1
    assert result.stderr.startswith("error: hf:owner/tiny is not in the hub's cache")
    assert "Traceback" not in result.stderr


def test_the_catalogue_lists_the_default_model(tmp_path: Path) -> None:
    assert "smollm2-135m-instruct" in cierzo(tmp_path, "models", "--catalogue").stdout
