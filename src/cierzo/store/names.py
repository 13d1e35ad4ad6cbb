"""Names that people give: to be shown on a line, and taken by every database."""

from __future__ import annotations

from cierzo.errors import StoreError

MAX_NAME_CHARS = 200


def checked_name(name: str) -> str:
    """A name that can be shown on a line. Raises StoreError."""
    if not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise StoreError(
            f"a name has 1 to {MAX_NAME_CHARS} printable characters; got {name[:50]!r}"
        )
    return name


def checked_part(name: str) -> str:
    """One that stands in paths like `ORGANISATION/WORKSPACE`. Raises StoreError."""
    if "/" in name:
        raise StoreError(f"a name of an organisation or workspace has no '/'; got {name[:50]!r}")
    return checked_name(name)


def printable(name: str) -> str:
    """A name to look for, as every database takes it; one that cannot be there becomes empty."""
    return name if name.isprintable() else ""
