"""Limits and an end of organisations, and transcripts. All stays the default organisation's."""

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
    op.create_table(
        "transcripts",
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("workspace_id", sa.String(64), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("request_id", name="pk_transcripts"),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="fk_transcripts_workspace_id"
        ),
    )
    op.create_index("ix_transcripts_expires_at_ms", "transcripts", ["expires_at_ms"])
