"""The pages of docs/ that are made from the code. `make fix` writes them, test_docs.py compares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from cierzo.cli import build_cli
from cierzo.settings import settings_table

ROOT = Path(__file__).parents[1]
MADE = "<!-- Made by `make fix` from the code. -->\n\n"


def cli_page() -> str:
    """docs/cli.md: every command, its arguments and flags, in the words of its --help."""
    lines = ["# Command line", "", "Exit status: 0 done, 1 failed (one line on stderr says why),"]
    lines += ["2 not understood. Settings can also be given as variables: `docs/settings.md`.", ""]
    for name, command in all_commands():
        arguments = " ".join(_placeholder(p) for p in command.params if p.opts[0][0] != "-")
        lines += [f"## cierzo {name} {arguments}".rstrip(), "", str(command.help), ""]
        lines += ["| | |", "|---|---|"]
        for parameter in command.params:
            shown = " ".join(f"`{text}`" for text in (*parameter.opts, *parameter.secondary_opts))
            if parameter.opts[0][0] != "-":
                shown = f"`{_placeholder(parameter)}`"
            if parameter.name != "help":
                lines.append(f"| {shown} | {parameter.help}{_default(parameter)} |")
        lines.append("")
    return MADE + "\n".join(lines)


def all_commands() -> Iterator[tuple[str, Any]]:
    """Every command by the words that call it; typer's own click has no public type."""
    group: Any = typer.main.get_command(build_cli())
    for name, command in group.commands.items():
        for word, member in getattr(command, "commands", {"": command}).items():
            yield f"{name} {word}".rstrip(), member


def _default(parameter: object) -> str:
    default = getattr(parameter, "default", None)
    is_value = isinstance(default, int | float | str) and not isinstance(default, bool)
    return f" [default {default}]" if is_value else ""


def _placeholder(argument: object) -> str:
    name = (
        str(getattr(argument, "metavar", None) or getattr(argument, "name", ""))
        .upper()
        .strip("{}[]")
    )
    name += "…" if getattr(argument, "nargs", 1) == -1 else ""
    return name if getattr(argument, "required", True) else f"[{name}]"


def settings_page() -> str:
    """docs/settings.md: the settings table."""
    intro = (
        "# Settings\n\nA flag wins over its variable, a variable over the default. Unknown"
        " `CIERZO_*`"
        " variables are refused.\nThe hub's own variables (`HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN`,"
        " `HF_HUB_OFFLINE`) are honoured too.\n\n"
    )
    return MADE + intro + settings_table()


PAGES = {"docs/cli.md": cli_page, "docs/settings.md": settings_page}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / name).write_text(page())
