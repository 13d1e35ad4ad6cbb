"""Target: every native entry point with arguments that are nearly right, or not right at all.

A call works, or raises ValueError, TypeError or IndexError (MemoryError where it was asked for
a size no machine has). What it computes from hostile numbers is its own affair; where it reads
and writes is the sanitizers'.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cierzo import kernels
from tests.fuzz.mutations import Mutator
from tests.fuzz.native_arguments import CALLS
from tests.fuzz.native_draw import Draw

_REFUSALS = (ValueError, TypeError, IndexError)
_MAX_CALLS = 4


class CallFailed(Exception):
    """An op ended in a way that it must not; carries which op, and its arguments."""


def open_target(work: Path) -> Callable[[random.Random, Path], None]:
    """The result makes a few calls."""
    named = {name.split(".")[0] for name in CALLS}
    assert named == set(kernels.__all__), f"not covered: {named ^ set(kernels.__all__)}"
    isas = kernels.available_isas()

    def run(rng: random.Random, folder: Path) -> None:
        kernels.set_isa(rng.choice(isas))
        kernels.set_num_threads(rng.choice((1, 2, 3)))
        draw = Draw(Mutator(rng))
        for _ in range(rng.randint(1, _MAX_CALLS)):
            name = rng.choice(list(CALLS))
            call, arguments = CALLS[name](draw)
            for argument in arguments:
                if draw.mutator.chance(0.8 / len(arguments)):
                    arguments[argument] = draw.spoiled(arguments[argument])
            _call(name, call, arguments)

    return run


def _call(name: str, call: Callable[..., Any], arguments: dict[str, Any]) -> None:
    try:
        result = call(**arguments)
    except _REFUSALS:
        return
    except Exception as error:
        if isinstance(error, MemoryError) and _asks_too_much(arguments):
            return
        shown = ", ".join(f"{key}={value!r:.60}" for key, value in arguments.items())
        raise CallFailed(f"{name}({shown})") from error
    # Results must outlive what they were made from.
    arguments.clear()
    gc.collect()
    for part in result if isinstance(result, tuple) else (result,):
        if isinstance(part, np.ndarray):
            part.tobytes()


def _asks_too_much(arguments: dict[str, Any]) -> bool:
    sizes = [value for value in arguments.values() if isinstance(value, int)]
    return any(size >= 4096 for size in sizes)
