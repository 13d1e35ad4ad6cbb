"""What src imports is what pyproject.toml declares: no more, and nothing by way of another."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_imports_and_declared_dependencies_are_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    requirements = project["dependencies"] + optional["bench"] + optional["classifiers"]
    declared = {name_of(requirement) for requirement in requirements}
    owners = packages_distributions()
    modules = {
        module for path in (ROOT / "src").rglob("*.py") for module in modules_of(path.read_text())
    }
    third_party = modules - sys.stdlib_module_names - {"cierzo"}
    assert {name_of(owners[module][0]) for module in third_party} == declared


def name_of(requirement: str) -> str:
    """`huggingface_hub>=2` → `huggingface-hub`, as the index spells it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def modules_of(source: str) -> set[str]:
    """The top-level modules that a file imports, also inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found
