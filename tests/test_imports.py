"""Imports point one way: the layers of docs/architecture.md, enforced."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "cierzo"

_NOUNS = {"chat_template", "config", "errors", "ids", "machine", "money"}
_ENGINE = _NOUNS | {"kernels", "models"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "config": set(),
    "chat_template": set(),
    "ids": set(),
    "machine": set(),
    "money": set(),
    "settings": _NOUNS,
    "kernels": _NOUNS,
    "models": _NOUNS | {"kernels"},
    "engine": _ENGINE,
    "tokenizer": _NOUNS,
    "hub": _NOUNS,
    "classifiers": _ENGINE | {"engine", "tokenizer"},
    "store": _NOUNS,
    "llm": _ENGINE | {"engine", "tokenizer", "hub", "settings"},
    "server": _ENGINE | {"classifiers", "engine", "tokenizer", "store"},
    "jobs": _NOUNS | {"store", "server"},
    "cli": _ENGINE
    | {"classifiers", "engine", "tokenizer", "store", "hub", "settings", "llm", "server", "jobs"},
    "__init__": {"llm", "engine"},
    "__main__": {"cli"},
}


def part_of(path: Path) -> str:
    """The layer (or top-level module) that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_parts(source: str) -> Iterator[str]:
    """The layers of ours that a module imports, also inside its functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which layer they reach"
            module = node.module or ""
            names = (
                [f"{module}.{alias.name}" for alias in node.names]
                if module == "cierzo"
                else [module]
            )
        else:
            continue
        for name in names:
            if name.startswith("cierzo."):
                yield name.split(".")[1]
            elif name == "cierzo":
                yield "__init__"


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    assert part in MAY_IMPORT, f"{part} is not a layer: add it to docs/architecture.md, then here"
    wrong = set(imported_parts(path.read_text())) - MAY_IMPORT[part] - {part}
    assert not wrong, f"{part} may not import {', '.join(sorted(wrong))}"


def test_the_test_sees_imports_inside_functions() -> None:
    source = "def f():\n    from cierzo.server.app import build_app\n    import cierzo.cli\n"
    assert set(imported_parts(source)) == {"server", "cli"}
