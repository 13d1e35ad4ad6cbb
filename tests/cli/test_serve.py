"""What `cierzo serve` decides before it serves."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cierzo.cli import run
from cierzo.cli.serve import check_reach, id_of
from cierzo.errors import SettingError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "::1", "localhost"])
def test_loopback_needs_no_consent(host: str) -> None:
    check_reach(host, allow_remote=False, has_keys=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "myhost"])
def test_other_addresses_need_a_key_or_consent(host: str) -> None:
    check_reach(host, allow_remote=True, has_keys=False)
    check_reach(host, allow_remote=False, has_keys=True)
    with pytest.raises(SettingError, match="--allow-remote"):
        check_reach(host, allow_remote=False, has_keys=False)


def test_the_refusal_comes_before_any_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(tmp_path)]
    remote = ["serve", "no-such-model", "--host", "0.0.0.0", "--port", "0", *data]
    assert run(remote) == 1
    assert "there are no API keys: make one" in capsys.readouterr().err
    assert run(["keys", "create", "ci", *data]) == 0
    assert run(remote) == 1
    assert "no model 'no-such-model'" in capsys.readouterr().err


def test_a_model_is_called_by_its_name_or_file(tmp_path: Path) -> None:
    (tmp_path / "tiny.Q4_0.gguf").touch()
    assert id_of("mixtral-8x7b-instruct") == "mixtral-8x7b-instruct"
    assert id_of(str(tmp_path / "tiny.Q4_0.gguf")) == "tiny.Q4_0"
    assert id_of(str(tmp_path)) == tmp_path.name


def test_a_taken_port_is_refused_before_any_model(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run(["serve", "no-such-model", "--port", port]) == 1
    assert "is in use" in capsys.readouterr().err


def test_two_models_of_one_name_are_refused_before_they_are_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twins = [tmp_path / folder / "tiny.gguf" for folder in ("a", "b")]
    for path in twins:
        path.parent.mkdir()
        path.touch()
    assert run(["serve", *map(str, twins), "--port", "0"]) == 1
    assert "both be called 'tiny'" in capsys.readouterr().err
    assert run(["serve", "no-such-model", "no-such-model", "--port", "0"]) == 1
    assert "both be called 'no-such-model'" in capsys.readouterr().err
