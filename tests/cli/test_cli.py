"""The command line as a whole: help, exit status, and errors without a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cierzo.cli import run
from tests.made_pages import all_commands

COMMANDS = dict(all_commands())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_flags(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert COMMANDS[command].help
    for parameter in COMMANDS[command].params:
        assert parameter.help, f"{command} {parameter.name} says nothing in --help"
        if parameter.opts[0].startswith("-"):
            assert parameter.opts[0] in shown


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from cierzo.cli import run; run(['--help']);"
        "heavy = {'numpy', 'fastapi', 'huggingface_hub', 'tokenizers', 'mistral_common'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_misuse_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["modls"]) == 2
    assert "models" in capsys.readouterr().err
    assert run(["pull"]) == 2


def test_failure_is_1_and_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["remove", "nothing", "--home", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: no model 'nothing' to remove; on this machine: none\n"


def test_what_the_system_refuses_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "file"
    home.touch()
    assert run(["pull", "mixtral-8x7b-instruct", "--home", str(home)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ") and str(home) in message


def test_a_bad_setting_is_misuse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CIERZO_HOEM", "/tmp")
    assert run(["models"]) == 2
    assert "did you mean CIERZO_HOME?" in capsys.readouterr().err
