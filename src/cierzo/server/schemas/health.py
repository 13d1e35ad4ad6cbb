"""The wire of `/health`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Health(BaseModel):
    """With 200 all is well; with 503 it names the models that are stuck."""

    status: Literal["ok", "unhealthy"]
    models: dict[str, Literal["ok", "stuck"]]
