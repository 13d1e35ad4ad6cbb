"""Upstreams; which one a row is of, and whether its token counts are known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "upstreams",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("url", sa.String(1000), nullable=False),
        sa.Column("key_env", sa.String(200)),
        sa.Column("tokenizer", sa.String(1000)),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_upstreams"),
    )
    op.add_column("usage_records", sa.Column("upstream", sa.String(200)))
    op.add_column(
        "usage_records",
        sa.Column("usage_known", sa.Boolean, nullable=False, server_default=sa.true()),
    )
