"""The hosted service's prices, as named presets: what would this have cost there?

In dollars per million tokens as its documentation had them on 2026-08-21, retired models with
their last price. Cached input is billed at 10 %, batches at 50 %.
"""

from __future__ import annotations

from cierzo.errors import StoreNotFoundError
from cierzo.store.pricing import Price


def _usd(input_usd: float, output_usd: float) -> Price:
    return Price(round(input_usd * 1_000_000), round(output_usd * 1_000_000))


PRESETS: dict[str, Price] = {
    "mistral-large-2512": _usd(0.50, 1.50),
    "mistral-medium-3-5": _usd(1.50, 7.50),
    "mistral-small-2603": _usd(0.15, 0.60),
    "mistral-small-2506": _usd(0.10, 0.30),
    "ministral-14b-2512": _usd(0.20, 0.20),
    "ministral-8b-2512": _usd(0.15, 0.15),
    "ministral-3b-2512": _usd(0.10, 0.10),
    "codestral-2508": _usd(0.30, 0.90),
    "devstral-2512": _usd(0.40, 2.00),
    "magistral-small-2509": _usd(0.50, 1.50),
    "open-mistral-nemo": _usd(0.15, 0.15),
    "mistral-embed": _usd(0.10, 0),
    "codestral-embed": _usd(0.15, 0),
    "mistral-moderation-2603": _usd(0, 0),
    "mistral-moderation-2411": _usd(0.10, 0),
}


def preset(name: str) -> Price:
    """Raises StoreNotFoundError, which lists them."""
    if name not in PRESETS:
        raise StoreNotFoundError(f"no price preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
