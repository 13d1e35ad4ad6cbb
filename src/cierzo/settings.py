"""Every setting of Cierzo, in one table: flag > environment (`CIERZO_*`) > default.

Resolved once, at the door (a command, `LLM(...)`); below it nobody reads the
environment. `docs/settings.md` and the flags' help are made from this table.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import ByteSize, Field, SecretStr, TypeAdapter, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from cierzo.errors import SettingError
from cierzo.machine import allowed_cpus

PREFIX = "CIERZO_"


class Settings(BaseSettings):
    """The table. A field's description is its flag's help and its line in the docs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    home: Path = Field(
        Path("~/.cache/cierzo"), description="Folder of pulled models and packed copies."
    )
    data: Path = Field(
        Path("~/.local/share/cierzo"),
        description="Folder of what must survive: the database, uploaded files.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="Database of keys, usage and jobs, as postgresql://user:password@host/name;"
        " unset: an SQLite file in the data folder.",
    )
    isa: Literal["portable", "avx2", "avx512", "amx"] | None = Field(
        None, description="Instruction set of the kernels; unset: the best this processor has."
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="Kernel threads of the process; unset: the physical cores it may use.",
    )
    dtype: Literal["auto", "bf16", "int8", "int4"] = Field(
        "auto", description="Weights in memory; auto: as the file stores them."
    )
    host: str = Field("127.0.0.1", description="Address the server listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port of the server; 0: any free one.")
    allow_remote: bool = Field(
        False,
        description="Accept a --host that other machines can reach without any API key made.",
    )
    strict: bool = Field(
        False,
        description="Refuse request fields that Mistral's API does not have, instead of ignoring"
        " them.",
    )
    transcript_days: int | None = Field(
        None,
        ge=1,
        le=3650,
        description="Days for which prompts and answers are kept, for admin keys to read; unset:"
        " they are not stored.",
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description="The server's log on stderr: text tells of warnings and errors; json, one"
        " object a line, of every request as well, and never of prompts or keys.",
    )
    max_model_len: int | None = Field(
        None,
        ge=1,
        description="Longest prompt plus answer, in tokens; unset: what the model was made for.",
    )
    memory: str = Field(
        "80%",
        description="Most memory for weights, KV cache and buffers of all models: a size (6GiB) or"
        " a share of the machine's (80%). What does not fit is refused at the start.",
    )
    kv_cache_dtype: Literal["bf16", "int8"] = Field(
        "bf16",
        description="Keys and values in memory; int8 holds twice the context and is read faster"
        " behind long ones, for a small loss of accuracy.",
    )
    token_budget: int = Field(
        512, ge=16, description="Most tokens computed in one step of the engine."
    )
    max_running: int = Field(64, ge=1, description="Most sequences computed at the same time.")
    max_waiting: int = Field(
        512,
        ge=1,
        description="Most requests waiting; past it the server answers 429 with Retry-After.",
    )
    prefix_caching: bool = Field(
        True, description="Reuse the KV cache of prompts that begin alike."
    )
    speculation: bool = Field(
        True,
        description="Compute guesses beside the next token where text repeats itself; answers stay"
        " the same.",
    )

    @field_validator("memory")
    @classmethod
    def _is_memory(cls, memory: str) -> str:
        nbytes_of(memory, 100)
        return memory

    @field_validator("threads")
    @classmethod
    def _have_cpus(cls, threads: int | None) -> int | None:
        limit = len(allowed_cpus())
        if threads is not None and threads > limit:
            raise PydanticCustomError(
                "too_many_threads",
                "at most {limit}, the CPUs that this process may use",
                {"limit": limit},
            )
        return threads


def nbytes_of(memory: str, total_nbytes: int) -> int:
    """What a memory setting means where there are `total_nbytes`. Raises PydanticCustomError."""
    match = re.fullmatch(r"([\d.]+)\s*%", memory.strip())
    try:
        if match is None:
            nbytes = int(TypeAdapter(ByteSize).validate_python(memory))
        else:
            nbytes = int(float(match[1]) / 100 * total_nbytes) if float(match[1]) <= 100 else 0
    except ValueError:
        nbytes = 0
    if nbytes <= 0:
        raise PydanticCustomError("memory", "a size like 6GiB or 800MiB, or a share like 80%")
    return nbytes


def load_settings(flags: Mapping[str, Any] | None = None, base: Settings | None = None) -> Settings:
    """The settings in force; `flags` are those given on the command line (None values: not given).

    With `base`, settings resolved before, these stand in for the environment and the defaults.
    Raises SettingError for a value out of bounds and for a CIERZO_* variable that does not exist.
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    if base is None:
        _refuse_unknown_variables()
    try:
        settings = Settings(**((base.model_dump() if base else {}) | given))
    except ValidationError as error:
        raise SettingError(_explain(error, given)) from error
    folders = {"home": settings.home.expanduser(), "data": settings.data.expanduser()}
    return settings.model_copy(update=folders)


def help_of(name: str) -> str:
    """The description of a setting, for its flag's help."""
    return Settings.model_fields[name].description or ""


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def settings_table() -> str:
    """The table as Markdown, for `docs/settings.md`."""
    lines = ["| variable | flag | default | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else str(field.default).lower()
        flag = "--" + name.replace("_", "-")
        lines.append(f"| `{variable_of(name)}` | `{flag}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


def _refuse_unknown_variables() -> None:
    known = [variable_of(name) for name in Settings.model_fields]
    for variable in os.environ:
        if variable.upper().startswith(PREFIX) and variable.upper() not in known:
            near = get_close_matches(variable.upper(), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise SettingError(
                f"the environment variable {variable} is not a setting of Cierzo: {hint}"
            )


def _explain(error: ValidationError, given: Mapping[str, Any]) -> str:
    """One line per bad value: where it came from, what it was, what is allowed."""
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][0])
        where = "--" + name.replace("_", "-") if name in given else variable_of(name)
        lines.append(f"{where} is {problem['input']!r}: {problem['msg']} ({help_of(name)})")
    return "; ".join(lines)
