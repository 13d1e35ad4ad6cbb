"""`make crash`: kills, full disks, lost databases and the largest files, on real servers.

    python -m tests.crash [SCENARIO ...]

A scenario fails loudly where this machine cannot run it: none is skipped. Exit status 1 if any
breaks.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.crash import full_disk, kills, large
from tests.crash.served import Place, say, tiny
from tests.store.postgres import Postgres


def on_sqlite(scenario: Callable[[Place], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="cierzo-crash-") as folder:
        scenario(Place(tiny(Path(folder)), Path(folder) / "data"))


def on_postgres(scenario: Callable[[Place, Postgres], None]) -> None:
    with own_postgres() as server, tempfile.TemporaryDirectory(prefix="cierzo-crash-") as folder:
        url = server.url("postgres")
        scenario(Place(tiny(Path(folder)), Path(folder) / "data", url), server)


@contextmanager
def own_postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="cierzo-pg-") as folder:
        server = Postgres(Path(folder))
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()


SCENARIOS: dict[str, Callable[[], None]] = {
    "kills": lambda: on_sqlite(kills.killed),
    "kills-postgres": lambda: on_postgres(lambda place, server: kills.killed(place)),
    "database-away": lambda: on_postgres(kills.left_by_its_database),
    "full-disk": full_disk.run,
    "upload-512": lambda: on_sqlite(large.upload_of_512_mib),
    "batch-100000": lambda: on_sqlite(large.batch_of_100_000_lines),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    chosen = parser.parse_args().scenarios or list(SCENARIOS)
    if unknown := set(chosen) - SCENARIOS.keys():
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    broken = []
    for name in chosen:
        say(f"→ {name}")
        started_s = time.monotonic()
        try:
            SCENARIOS[name]()
        except Exception:
            traceback.print_exc()
            broken.append(name)
        say(f"  {'BROKEN' if name in broken else 'ok'} after {time.monotonic() - started_s:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
