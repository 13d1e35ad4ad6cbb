"""What an organisation, a workspace or a key may use. None is no limit."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Row

from cierzo.errors import StoreError

MAX_LIMIT = 2**31 - 1
MAX_MONTHLY = 2**53
"""What the columns hold, and every JSON reader."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Money is micros (millionths of a dollar); months and minutes are the clock's, in UTC."""

    budget_micros_month: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_month: int | None = None
    max_concurrent: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            bound = MAX_MONTHLY if "month" in field.name else MAX_LIMIT
            if value is not None and not 0 <= value <= bound:
                raise StoreError(f"{field.name} must be between 0 and {bound}; got {value}")

    @classmethod
    def of(cls, row: Row[Any], prefix: str = "") -> Limits:
        """Those in a row, whose columns may have a prefix."""
        columns = row._mapping
        return cls(**{field.name: columns[prefix + field.name] for field in fields(cls)})

    def columns(self) -> dict[str, int | None]:
        return asdict(self)
