"""One target's inputs, one after another, in a process that may die of them.

`python -m tests.fuzz.worker TARGET SEED FIRST COUNT SECONDS FOLDER` writes a JSON line before
each input and after it. Who started it judges silence and sudden ends (`__main__.py`).
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.fuzz import sanitized  # the native module must be chosen before it is imported

MAX_INPUTS = 2000
"""Then a fresh process goes on, so that slow leaks are nobody's finding."""


def main() -> None:
    target, seed, first, count, seconds, folder = sys.argv[1:]
    assert sanitized.VARIABLE in os.environ
    # Reports get a channel of their own: anybody may print.
    reports = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    work = Path(folder)
    shutil.rmtree(work, ignore_errors=True)
    (work / "sound").mkdir(parents=True)

    def report(**fields: Any) -> None:
        reports.write(json.dumps(fields) + "\n")

    from cierzo.errors import CierzoError

    run = importlib.import_module(f"tests.fuzz.{target}").open_target(work / "sound")
    deadline = time.monotonic() + float(seconds)
    last = int(first) + min(int(count), MAX_INPUTS)
    report(event="ready")
    for number in range(int(first), last):
        if time.monotonic() > deadline:
            break
        report(event="start", number=number)
        place = work / "input"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            run(random.Random(f"{target} {seed} {number}"), place)
            report(event="ran")
        except CierzoError:
            report(event="refused")
        except BaseException as error:  # some libraries' panics are no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            trace = traceback.format_exc()
            report(event="finding", cause=_cause(error), trace=trace[-8000:])
    report(event="end")
    reports.flush()
    os._exit(0)  # threads of engines and pools need not be waited for


def _cause(error: BaseException) -> str:
    """What makes two findings one: the type, and where in our files it was raised."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/src/cierzo/" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
    return f"{type(error).__name__} at {where}: {error!s:.100}".replace("\n", " ")


if __name__ == "__main__":
    main()
