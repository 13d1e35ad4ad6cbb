"""Which chat template counts where a file holds several: one rule, before packing and after.

Imports nothing of ours, so that loading and tokenizing agree on it.
"""

from __future__ import annotations


def chosen_template(value: object) -> str | None:
    """The template in a file's `chat_template`: the text itself, or of several the one named
    default, else the only one. None where there is none, or none can be chosen."""
    if isinstance(value, list):
        named = {str(e.get("name")): e.get("template") for e in value if isinstance(e, dict)}
        value = named.get("default") or (next(iter(named.values())) if len(named) == 1 else None)
    return value if isinstance(value, str) else None
