"""Organisations get limits and an end. All that is there stays the default organisation's."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for column in (
        sa.Column("archived_at_ms", sa.BigInteger),
        sa.Column("budget_micros_month", sa.BigInteger),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("tokens_per_minute", sa.Integer),
        sa.Column("tokens_per_month", sa.BigInteger),
        sa.Column("max_concurrent", sa.Integer),
    ):
        op.add_column("organisations", column)
