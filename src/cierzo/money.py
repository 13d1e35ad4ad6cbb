"""Money is counted in micros, millionths of a dollar. Imports nothing of ours."""

from __future__ import annotations

MICROS = 1_000_000
"""Of a dollar."""


def dollars(amount_micros: int) -> str:
    """`0.15`, `12.50`, `0.000012`: as many decimals as it has, two at least."""
    whole, decimals = divmod(amount_micros, MICROS)
    return f"{whole}.{f'{decimals:06}'.rstrip('0'):0<2}"
