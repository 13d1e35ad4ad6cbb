"""What a workspace or a key may use. None is no limit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Row


@dataclass(frozen=True, slots=True)
class Limits:
    """Money is micros (millionths of a dollar); months and minutes are the clock's, in UTC."""

    budget_micros_month: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_month: int | None = None
    max_concurrent: int | None = None

    @classmethod
    def of(cls, row: Row[Any], prefix: str = "") -> Limits:
        """Those in a row, whose columns may have a prefix."""
        columns = row._mapping
        return cls(**{field.name: columns[prefix + field.name] for field in fields(cls)})

    def columns(self) -> dict[str, int | None]:
        return asdict(self)
