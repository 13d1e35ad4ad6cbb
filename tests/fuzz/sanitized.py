"""The native module built with sanitizers, put in the place of the installed one.

As a pytest plugin it does so for a test run:
`python -m tests.fuzz --tests` is pytest with `-p tests.fuzz.sanitized` and the right environment.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "sanitize"
VARIABLE = "SANITIZED_CIERZO_MODULE"
_NAME = "cierzo.kernels._native"


def build_module() -> Path:
    """Builds what changed, with -O1 (a few minutes the first time). Returns the module's path."""
    tools = Path(sys.executable).parent
    if not (BUILD / "build.ninja").is_file():
        subprocess.run(
            [
                *(tools / "cmake", "-G", "Ninja", "-S", ROOT, "-B", BUILD),
                *("-DCIERZO_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Sanitize"),
                *("-DCMAKE_CXX_FLAGS_SANITIZE=-O1", f"-DPython_EXECUTABLE={sys.executable}"),
                f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    subprocess.run([tools / "ninja", "-C", BUILD], check=True, stdout=subprocess.DEVNULL)
    (module,) = BUILD.glob("_native*.so")
    return module


def environment(module: Path, *, limited: bool) -> dict[str, str]:
    """What a process needs to load `module`: the sanitizers' runtime before all else.

    `limited`: an allocation over 1 GB fails and a process over 2 GB is stopped, so that memory
    which hostile input asks for is seen.
    """
    limits = ":max_allocation_size_mb=1024:hard_rss_limit_mb=2048" if limited else ""
    compiler = os.environ.get("CXX", "c++")
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1{limits}",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        VARIABLE: str(module),
    }


def use(module: Path) -> None:
    """Later imports of the kernels find `module`, whatever is installed."""
    spec = importlib.util.spec_from_file_location(_NAME, module)
    assert spec is not None and spec.loader is not None
    sys.modules[_NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[_NAME])


if VARIABLE in os.environ:
    use(Path(os.environ[VARIABLE]))
