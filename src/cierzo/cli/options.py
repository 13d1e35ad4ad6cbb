"""The flags that commands share, each made from its line in the settings table."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cierzo.errors import SettingError
from cierzo.money import MICROS
from cierzo.settings import Settings, help_of, load_settings, variable_of


def _flag(setting: str) -> Any:
    default = Settings.model_fields[setting].default
    shown = "" if default is None else f", default {str(default).lower()}"
    return typer.Option(
        help=f"{help_of(setting)} [{variable_of(setting)}{shown}]", show_default=False
    )


Home = Annotated[Path | None, _flag("home")]
Data = Annotated[Path | None, _flag("data")]
DatabaseUrl = Annotated[str | None, _flag("database_url")]
Isa = Annotated[Literal["portable", "avx2", "avx512", "amx"] | None, _flag("isa")]
Threads = Annotated[int | None, _flag("threads")]
Dtype = Annotated[Literal["auto", "bf16", "int8", "int4"] | None, _flag("dtype")]
Host = Annotated[str | None, _flag("host")]
Port = Annotated[int | None, _flag("port")]
AllowRemote = Annotated[bool | None, _flag("allow_remote")]
Strict = Annotated[bool | None, _flag("strict")]
TranscriptDays = Annotated[int | None, _flag("transcript_days")]
LogFormat = Annotated[Literal["text", "json"] | None, _flag("log_format")]
MaxModelLen = Annotated[int | None, _flag("max_model_len")]
Memory = Annotated[str | None, _flag("memory")]
KvCacheDtype = Annotated[Literal["bf16", "int8"] | None, _flag("kv_cache_dtype")]
TokenBudget = Annotated[int | None, _flag("token_budget")]
MaxRunning = Annotated[int | None, _flag("max_running")]
MaxWaiting = Annotated[int | None, _flag("max_waiting")]
PrefixCaching = Annotated[bool | None, _flag("prefix_caching")]
Speculation = Annotated[bool | None, _flag("speculation")]

Model = Annotated[
    str, typer.Argument(help="A catalogue name, hf:owner/repo[:file], or a path.", metavar="MODEL")
]
OptionalModel = Annotated[
    str | None,
    typer.Argument(help="A catalogue name, hf:owner/repo[:file], or a path.", metavar="MODEL"),
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0: always the likeliest token.")]
TopP = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of probability kept.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same text.", show_default=False)]

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]


def settings_of(**flags: Any) -> Settings:
    """The settings in force with these flags (None: not given). A bad one is a usage error."""
    try:
        return load_settings(flags)
    except SettingError as error:
        raise typer.BadParameter(str(error)) from error


def micros(amount: str, flag: str) -> int:
    """Dollars as people write them → micros, exactly. Raises BadParameter."""
    try:
        value = Decimal(amount.removeprefix("$")) * MICROS
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value < 0 or value != value.to_integral_value():
        raise typer.BadParameter(
            f"{flag} is {amount!r}; it must be dollars with at most 6 decimals, such as 12.50"
        )
    return int(value)
