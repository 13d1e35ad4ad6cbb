"""`make sdk`: the real clients against a running server, each in an environment of its own.

    python tests/sdk/run.py [--url http://host:port --model NAME]

Without --url it starts the server of the tests itself. Environments are `.venv-sdk-<version>` and
`.venv-langchain` in the repository's root, made on the first run (which needs a package index).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CLIENTS = {  # package, where its environment is, what it runs
    "mistralai==3.7.0": (".venv-sdk-3.7.0", "scenario.py"),
    "mistralai==2.5.1": (".venv-sdk-2.5.1", "scenario.py"),
    "mistralai==1.12.4": (".venv-sdk-1.12.4", "scenario.py"),
    "langchain-mistralai==1.1.6": (".venv-langchain", "langchain_scenario.py"),
}


def environment(package: str, folder: Path) -> Path:
    """The interpreter of the environment that has this package; makes it if need be."""
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
        ready.touch()
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running server; default: the tests' own")
    parser.add_argument("--model", default="tiny")
    arguments = parser.parse_args()
    commands = {
        package: [environment(package, ROOT / folder), ROOT / "tests" / "sdk" / script]
        for package, (folder, script) in CLIENTS.items()
    }
    with ExitStack() as stack:
        url = arguments.url or stack.enter_context(own_server())
        failed = [
            package
            for package, command in commands.items()
            if subprocess.run([*command, url, arguments.model]).returncode
        ]
    if failed:
        print(f"the scenario fails with {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


@contextmanager
def own_server() -> Iterator[str]:
    """The tests' scripted server, which answers what the scenarios need."""
    sys.path.insert(0, str(ROOT))
    from cierzo.jobs.worker import run_jobs
    from tests.server.answers import answer
    from tests.server.conftest import scripted_classifiers, scripted_model
    from tests.server.live import live_server
    from tests.server.scripted import ScriptedEngine

    with tempfile.TemporaryDirectory() as data:
        classifiers = scripted_classifiers(Path(data))
        models = [scripted_model(ScriptedEngine(answer))]
        with live_server(models, classifiers=classifiers, background=run_jobs) as server:
            yield server.url


if __name__ == "__main__":
    sys.exit(main())
