"""The command line: one table of commands, one way to fail.

Each command is a file of this folder, and so is each group of them. Heavy imports stay inside
the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import typer
from rich.markup import escape

from cierzo.cli.backup import backup, restore
from cierzo.cli.bench import bench
from cierzo.cli.chat import chat
from cierzo.cli.classifier import CLASSIFIER
from cierzo.cli.console import err
from cierzo.cli.cost import cost
from cierzo.cli.generate import generate
from cierzo.cli.inspect import inspect
from cierzo.cli.keys import KEYS
from cierzo.cli.models import models
from cierzo.cli.organisations import ORGANISATIONS
from cierzo.cli.prices import PRICES
from cierzo.cli.pull import pull
from cierzo.cli.quantize import quantize
from cierzo.cli.remove import remove
from cierzo.cli.serve import serve
from cierzo.cli.upcycle import upcycle
from cierzo.cli.upstream import UPSTREAM
from cierzo.cli.usage import usage
from cierzo.cli.version import version
from cierzo.cli.workspaces import WORKSPACES
from cierzo.errors import CierzoError

COMMANDS: tuple[Callable[..., None], ...] = (
    serve,
    chat,
    generate,
    bench,
    pull,
    models,
    inspect,
    quantize,
    upcycle,
    remove,
    usage,
    cost,
    backup,
    restore,
    version,
)

GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "classifier": ("Named classifiers, for /v1/classifications and /v1/moderations.", CLASSIFIER),
    "keys": ("API keys of the server.", KEYS),
    "organisations": ("Organisations, to which workspaces belong.", ORGANISATIONS),
    "prices": ("Prices of the models, and the hosted service's.", PRICES),
    "upstream": ("Models that live on other servers, offered here.", UPSTREAM),
    "workspaces": ("Workspaces, to which keys, files and usage belong.", WORKSPACES),
}
"""Commands of two words: the first → its help, and what may follow it."""


def build_cli() -> typer.Typer:
    """The command line as a Typer app."""
    app = typer.Typer(
        name="cierzo",
        help="The Mistral platform on your own machine.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for command in COMMANDS:
        app.command()(command)
    for name, (help_text, commands) in GROUPS.items():
        group = typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)
        for word, command in commands.items():
            group.command(word)(command)
        app.add_typer(group, name=name)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line. 0: done; 1: it failed and said why; 2: it was not understood."""
    try:
        build_cli()(list(arguments), prog_name="cierzo")
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 0
    except (CierzoError, OSError) as error:  # OSError: what the system refused, and which file
        err.print(f"[red]error:[/red] {escape(str(error))}")
        return 1
    return 0


def main() -> None:
    """The `cierzo` program."""
    sys.exit(run(sys.argv[1:]))
